"""The memory model: figures that papers print, what each setting moves, and the agreement with published configurations."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain_verl.plan import memory
from posttrain_verl.plan.job import GIB, Job, Rollout, Trained, micro_tokens
from posttrain_verl.plan.shape import Shape

BACKTEST = Path(__file__).resolve().parents[2] / "benchmarks/plan_backtest.py"
SEVEN_B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18944, vocab=152064, qkv_bias=True)
ACTOR = Trained("actor", SEVEN_B, shard=8, tokens=8192, forward_tokens=8192)
ENGINE = Rollout(SEVEN_B, tensor_parallel=2, share=0.6, sequence=2048)
JOB = Job(gpus=8, gpus_per_node=8, memory=79.1 * GIB, host_memory=2000 * GIB, models=(ACTOR,), rollout=ENGINE)


def gb(job: Job, name: str) -> float:
    return next((line.gb for line in memory.table(job).lines if line.name == name), 0.0)


def changed(**fields) -> Job:
    return replace(JOB, models=(replace(ACTOR, **fields),))


def test_sixteen_bytes_a_parameter_as_in_zero():
    # ZeRO's figure 1: 7.5 B parameters with Adam take 120 GB on one GPU and 1.9 GB sharded over 64.
    shape = replace(SEVEN_B, vocab=136_000)
    assert shape.parameters == pytest.approx(7.5e9, rel=0.01)
    for shard, expected in ((1, 120), (64, 1.9)):
        job = replace(JOB, models=(replace(ACTOR, shape=shape, shard=shard),))
        states = sum(gb(job, f"actor {kind}") for kind in ("parameters", "gradients", "optimizer"))
        assert states * GIB / 1e9 == pytest.approx(expected, rel=0.02)


def test_llama_3_8b_has_the_kv_cache_that_its_card_implies():
    shape = Shape(hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, mlp=14336, vocab=128256)
    assert shape.kv_bytes(1) * 8192 == GIB  # 128 KiB a token: 8192 tokens are 1 GB


def test_offloading_empties_the_phases_in_which_the_actor_rests():
    table, away = memory.table(JOB), memory.table(changed(param_offload=True, optimizer_offload=True))
    resting = (gb(JOB, "actor parameters") + gb(JOB, "actor optimizer")) * GIB
    assert table.total("rollout") - away.total("rollout") == pytest.approx(resting)
    assert away.total("update") == table.total("update"), "VeRL brings both back for the update"
    assert away.total("host") == pytest.approx(8 * resting + 8 * memory.HOST_PROCESS)


def test_the_share_of_vllm_is_weights_passes_and_cache():
    lines = ("vLLM weights", "vLLM passes and context", "vLLM KV cache")
    assert sum(gb(JOB, name) for name in lines) == pytest.approx(0.6 * 79.1)


def test_an_engine_without_room_for_a_sequence_does_not_fit():
    small = replace(JOB, rollout=replace(ENGINE, share=0.1))
    assert memory.table(small).kv_sequences < 1
    assert not memory.table(small).fits
    assert memory.table(JOB).fits


def test_a_host_that_is_too_small_does_not_fit():
    away = replace(changed(param_offload=True, optimizer_offload=True), host_memory=64 * GIB)
    assert not memory.table(away).fits


def test_checkpointing_keeps_layer_inputs_only():
    assert gb(changed(checkpointing=False), "actor activations") > 10 * gb(JOB, "actor activations")


def test_lora_trains_little_and_keeps_the_weights():
    job = changed(lora_rank=32)
    assert gb(job, "actor optimizer") < 0.02 * gb(JOB, "actor optimizer")
    assert gb(job, "actor parameters") > gb(JOB, "actor parameters")
    assert gb(job, "actor unreduced gradients") == 0


def test_only_active_experts_keep_activations():
    sparse = Shape(hidden=2048, layers=48, heads=32, kv_heads=4, head_dim=128, mlp=768, vocab=151936, experts=128,
                   active_experts=8)  # fmt: skip
    dense = replace(sparse, experts=0, active_experts=0, mlp=8 * 768)
    moe, plain = (replace(JOB, models=(replace(ACTOR, shape=shape),)) for shape in (sparse, dense))
    assert gb(moe, "actor parameters") > 8 * gb(plain, "actor parameters")
    assert gb(moe, "actor activations") < 2 * gb(plain, "actor activations")


@pytest.mark.parametrize(
    ("budget", "micro", "sequences", "split", "tokens"),
    [
        (16384, None, 100, 1, 16384),  # a budget is filled
        (16384, None, 4, 1, 4096),  # as far as there are sequences
        (512, None, 4, 1, 1024),  # one sequence must pass
        (None, 8, 100, 1, 8192),
        (None, 8, 100, 2, 4096),
    ],
)
def test_tokens_of_a_micro_batch(budget, micro, sequences, split, tokens):
    assert micro_tokens(budget, micro, sequences, length=1024, fill=1.0, split=split) == tokens


def test_published_configurations():
    found = runpy.run_path(str(BACKTEST))["verdicts"]()
    assert len(found) >= 25
    assert {verdict.fits for verdict in found} == {True, False}
    right = sum(verdict.right for verdict in found)
    assert right >= 28, [verdict.name for verdict in found if not verdict.right]
