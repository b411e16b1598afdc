"""The memory plan against torch's own tracker of FSDP2: `python benchmarks/plan_tracker.py [--sample] [--json]`.

One training step of a micro batch runs with fake tensors and a fake process group: no memory, no GPU, every allocation of rank 0
counted. VeRL's own function wraps the model (fp32 weights, bf16 compute, fp32 reduction). Gradients of earlier micro batches are
there already. AdamW's state (8 bytes a weight) and the temporary of its step (4) are added by hand: the tracker cannot run it.

Prints the table of docs/evidence/plan.md; `--sample` takes the points of tests/plan/test_tracker.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, distributed
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from verl.utils.fsdp_utils import apply_fsdp2

from posttrain_verl import paths
from posttrain_verl.base_models import shape as shapes
from posttrain_verl.plan import memory
from posttrain_verl.verl.job import GIB, Job, TrainedModel

MODELS = [f"qwen2_5_{size}_instruct" for size in ("0_5b", "1_5b", "3b", "7b", "14b", "32b")]
CHUNK = 128  # tokens whose logits the loss turns into fp32 at a time


@dataclass(frozen=True)
class Point:
    """One step: a model of conf/base_model, GPUs that share it, tokens of the packed row, gradient checkpointing."""

    model: str
    gpus: int
    tokens: int
    checkpointing: bool


GRID = [Point(*point) for point in product(MODELS, (1, 8, 64), (2048, 16384), (True, False))]
OTHERS = [Point(*point) for point in product(("llama3_2_3b_instruct", "qwen3_8b"), (8,), (16384,), (True, False))]
SAMPLE = [
    Point("qwen2_5_0_5b_instruct", 1, 16384, True),
    Point("qwen2_5_1_5b_instruct", 8, 2048, False),
    Point("qwen2_5_3b_instruct", 4, 4096, True),
    Point("qwen2_5_7b_instruct", 8, 24576, True),
    Point("qwen2_5_14b_instruct", 16, 2048, True),
    Point("qwen2_5_32b_instruct", 64, 10240, True),
    Point("llama3_2_3b_instruct", 2, 8192, False),
]


class _FlashAttention(torch.autograd.Function):
    """Keeps and makes the tensors that flash-attention keeps and makes; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, sums = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors[:3]
        _in_fp32, _of_all_heads = torch.empty_like(query, dtype=torch.float32), [torch.empty_like(query) for _ in "kv"]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _LogProbabilities(torch.autograd.Function):
    """Keeps one number a token and writes the gradient over the logits, as flash-attn's cross entropy does."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        totals = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(CHUNK)])
        ctx.save_for_backward(logits, totals)
        return logits[:, 0].float() - totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        logits, totals = ctx.saved_tensors
        for chunk, total in zip(logits.split(CHUNK), totals.split(CHUNK), strict=True):
            chunk.copy_(chunk.float().sub_(total[:, None]).exp_())
        return logits


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    return _FlashAttention.apply(query, key, value).transpose(1, 2), None


def measured(point: Point) -> int:
    """Bytes on rank 0 at the largest moment of update and optimizer step."""
    ALL_ATTENTION_FUNCTIONS.register("as_dear_as_varlen", _attention)
    distributed.init_process_group("fake", rank=0, world_size=point.gpus, store=FakeStore())
    mesh = init_device_mesh("cpu", (point.gpus,), mesh_dim_names=("fsdp",))  # fake mode must not see it made
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = _sharded(point, mesh)
            weights = sum(weight.to_local().numel() for weight in model.parameters())
            return max(_peak(model, point.tokens) + 8 * weights, 20 * weights)
    finally:
        distributed.destroy_process_group()


def _sharded(point: Point, mesh: Any) -> Any:
    """The model as VeRL's FSDP2 engine wraps it, with gradients from earlier micro batches."""
    config = AutoConfig.for_model(**_config(point.model))
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="as_dear_as_varlen"
    ).train()
    if point.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=True)
    apply_fsdp2(
        model, {"mesh": mesh, "mp_policy": precision, "offload_policy": None, "reshard_after_forward": True}, {}
    )
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return model


def _peak(model: Any, tokens: int) -> int:
    """Bytes at the peak of a forward and a backward pass over one packed row."""
    row = torch.zeros(1, tokens, dtype=torch.long)
    with FSDPMemTracker(model) as tracker:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=row, position_ids=row, use_cache=False).logits.squeeze(0)
            loss = _LogProbabilities.apply(logits).mean()
        del logits
        loss.backward()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return int(snapshot["Total"])


def _config(name: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "base_model" / f"{name}.yaml").config)
    return config


def planned(point: Point) -> tuple[float, str]:
    """Bytes that the plan counts, without what is no tensor; and the phase that needs them."""
    model = TrainedModel("model", shapes.shape_of_config(_config(point.model)), shard=point.gpus, tokens=point.tokens,
                    forward_tokens=0, checkpointing=point.checkpointing)  # fmt: skip
    table = memory.memory_table(Job(gpus=point.gpus, gpus_per_node=8, memory=80 * GIB, host_memory=0, models=(model,)))
    phase, peak = table.peak
    return peak - table.line("CUDA context").bytes - table.line("fragmentation").bytes, phase


def rows(points: list[Point]) -> Iterator[dict[str, Any]]:
    for point in points:
        (plan, phase), real = planned(point), measured(point)
        yield {**vars(point), "phase": phase, "plan": plan / GIB, "tracker": real / GIB, "ratio": plan / real}


def main(words: list[str]) -> int:
    points = SAMPLE if "--sample" in words else GRID + OTHERS
    if "--json" not in words:
        print(
            "| model | GPUs | tokens | checkpointing | tracker, GB | plan, GB | plan / tracker |\n" + "|---" * 7 + "|"
        )
    for row in rows(points):
        if "--json" in words:
            print(json.dumps(row), flush=True)
            continue
        print(f"| {row['model']} | {row['gpus']} | {row['tokens']} | {'yes' if row['checkpointing'] else 'no'} | "
              f"{row['tracker']:.2f} | {row['plan']:.2f} | {row['ratio']:.3f} |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
