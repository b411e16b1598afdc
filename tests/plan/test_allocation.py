"""The memory model against torch's own accounting of tensors, on the CPU, within 10 %."""

import pytest

from posttrain_verl import base_models
from posttrain_verl.base_models import shape as shapes
from posttrain_verl.plan import memory
from posttrain_verl.plan import memory as memory_model
from posttrain_verl.verl.job import Job, TrainedModel

ROWS, LENGTH = 2, 48
MODELS = ["tiny", "nano_2m", pytest.param("smollm2_135m", marks=[pytest.mark.slow, pytest.mark.timeout(600)])]


def sizes(tensors) -> int:
    """Bytes of the storages behind tensors, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def allocate(name: str, dtype: str, checkpointing: bool) -> dict[str, int]:
    """Train one step and count the bytes of each kind of tensor; saved activations by autograd's own hooks."""
    import torch
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype)
    folder = base_models.ensure_model(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa").train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = list(model.parameters())
    weights = {p.untyped_storage().data_ptr() for p in parameters}
    saved = []
    ids = torch.randint(0, 256, (ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        logits = model(input_ids=ids, use_cache=False).logits
    kept = sizes([t for t in saved if t.untyped_storage().data_ptr() not in weights])
    optimizer = torch.optim.AdamW(parameters)
    logits.float().logsumexp(-1).sum().backward()
    gradients = sizes([p.grad for p in parameters])
    optimizer.step()
    moments = sizes([t for state in optimizer.state.values() for t in state.values() if t.dim()])
    return {"parameters": sizes(parameters), "gradients": gradients, "optimizer": moments, "activations": kept,
            "logits": sizes([logits])}  # fmt: skip


def planned(name: str, item: int, checkpointing: bool) -> dict[str, float]:
    shape = shapes.shape_of_folder(base_models.ensure_model(name))
    model = TrainedModel("model", shape, shard=1, tokens=ROWS * LENGTH, forward_tokens=0, logit_bytes=(item, item),
                    master_bytes=item, compute_bytes=item, checkpointing=checkpointing)  # fmt: skip
    table = memory_model.memory_table(Job(gpus=1, gpus_per_node=1, memory=2**34, host_memory=0, models=(model,)))
    lines = {line.name.removeprefix("model "): line.bytes for line in table.lines}
    kept = memory.all_layers_bytes(shape, item, checkpointing) + memory.outer_bytes(shape, item)
    return lines | {"activations": ROWS * LENGTH * kept, "logits": ROWS * LENGTH * shape.vocab * item}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["all_kept", "checkpointing"])
@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_tensor_is_as_large_as_planned(name, dtype, item, checkpointing):
    measured = allocate(name, dtype, checkpointing)
    plan = planned(name, item, checkpointing)
    for kind, size in measured.items():
        assert plan[kind] == pytest.approx(size, rel=0.1), kind
