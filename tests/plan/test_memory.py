"""The memory model: figures that papers print, what each setting moves, and the agreement with published configurations."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl.base_models.shape import Shape, shape_of_config
from posttrain_verl.compose import compose
from posttrain_verl.plan import memory
from posttrain_verl.verl.job import GIB, Job, RolloutEngine, TrainedModel, micro_tokens

BACKTEST = Path(__file__).resolve().parents[2] / "benchmarks/plan_backtest.py"
SEVEN_B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18944, vocab=152064, qkv_bias=True)
ACTOR = TrainedModel("actor", SEVEN_B, shard=8, tokens=8192, forward_tokens=8192)
ENGINE = RolloutEngine(SEVEN_B, tensor_parallel=2, share=0.6, sequence=2048)
RIGHT = 90  # published configurations of which the plan says what was reported
JOB = Job(gpus=8, gpus_per_node=8, memory=79.1 * GIB, host_memory=2000 * GIB, models=(ACTOR,), rollout=ENGINE)


def gb(job: Job, name: str) -> float:
    return next((line.gb for line in memory.memory_table(job).lines if line.name == name), 0.0)


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
    table, away = memory.memory_table(JOB), memory.memory_table(changed(param_offload=True, optimizer_offload=True))
    resting = (gb(JOB, "actor parameters") + gb(JOB, "actor optimizer")) * GIB
    assert table.total("rollout") - away.total("rollout") == pytest.approx(resting)
    assert away.total("update") == table.total("update"), "VeRL brings both back for the update"
    assert away.total("host") == pytest.approx(8 * resting + 8 * memory.HOST_PROCESS)


def test_the_share_of_vllm_is_weights_passes_and_cache():
    lines = ("vLLM weights", "vLLM passes and context", "vLLM KV cache", "vLLM CUDA graphs")
    assert sum(gb(JOB, name) for name in lines) == pytest.approx(0.6 * 79.1)


def test_an_engine_without_room_for_a_sequence_does_not_fit():
    small = replace(JOB, rollout=replace(ENGINE, share=0.1))
    assert memory.memory_table(small).kv_sequences < 1
    assert not memory.memory_table(small).fits
    assert memory.memory_table(JOB).fits


def test_a_host_that_is_too_small_does_not_fit():
    away = replace(changed(param_offload=True, optimizer_offload=True), host_memory=64 * GIB)
    assert not memory.memory_table(away).fits


def test_checkpointing_keeps_layer_inputs_only():
    assert gb(changed(checkpointing=False), "actor activations") > 10 * gb(JOB, "actor activations")


def test_lora_trains_little_and_keeps_the_weights():
    job = changed(lora_rank=32)
    assert gb(job, "actor optimizer") < 0.02 * gb(JOB, "actor optimizer")
    assert gb(job, "actor parameters") > gb(JOB, "actor parameters")
    assert gb(job, "actor unreduced gradients") == 0


def test_logits_and_the_layer_computed_again_never_live_together():
    # 7 B, 24576 tokens: 6.96 GB of logits at the output layer; 14 GB for inputs, the last layer and its MLP's gradients.
    long = changed(tokens=24576)
    assert gb(long, "actor logits") == 0
    assert "at the last layer" in next(
        line.formula for line in memory.memory_table(long).lines if line.name == "actor activations"
    )
    entropy = changed(tokens=24576, logit_bytes=(8, 2))
    assert gb(entropy, "actor logits") == pytest.approx(24576 * 152064 * 8 / GIB)
    assert gb(entropy, "actor activations") < 0.5 * gb(long, "actor activations")


def test_gradients_that_wait_for_the_last_micro_batch_are_whole():
    job = changed(whole_gradients=True)
    assert gb(job, "actor whole gradients") == pytest.approx(SEVEN_B.parameters * 4 * 7 / 8 / GIB)
    assert gb(JOB, "actor whole gradients") == 0
    assert gb(changed(whole_gradients=True, lora_rank=32), "actor whole gradients") < 1


def test_layers_that_are_kept_gathered_are_all_there():
    assert gb(changed(reshards=False), "actor gathered layers") == pytest.approx(SEVEN_B.parameters * 2 / GIB)


@pytest.mark.parametrize(("row", "pairs"), [(0, 8192 * 8192), (2048, 8192 * 2048)])
def test_sdpa_makes_a_mask_over_pairs_of_tokens(row, pairs):
    # One byte a pair, and two in the layer that is computed again; packed rows see all tokens of the micro batch.
    job = changed(dense_mask=True, row=row)
    assert gb(job, "actor attention mask") == pytest.approx(pairs * 3 / GIB)
    assert gb(JOB, "actor attention mask") == 0
    every = changed(dense_mask=True, row=row, checkpointing=False)
    assert gb(every, "actor attention mask") == pytest.approx(pairs * (1 + 2 * 28) / GIB)
    assert memory.memory_table(job).total("log_prob") == pytest.approx(
        memory.memory_table(JOB).total("log_prob") + pairs * 3
    )


@pytest.mark.parametrize(
    ("gpus", "summon", "fields", "whole"),
    [
        (1, False, {"fsdp2": False, "shard": 1}, True),  # one GPU's full state dict is a copy
        (8, False, {"fsdp2": False}, False),
        (8, False, {"fsdp2": False, "lora_rank": 32}, True),  # adapters are summoned with everything else
        (8, True, {"fsdp2": False, "lora_rank": 32}, False),
        (1, False, {"shard": 1}, False),  # FSDP2 hands out one tensor at a time
    ],
)
def test_fsdp1_puts_whole_weights_on_the_gpu_to_send_them(gpus, summon, fields, whole):
    job = replace(changed(**fields), gpus=gpus, rollout=replace(ENGINE, layered_summon=summon))
    assert gb(job, "whole weights") == (pytest.approx(SEVEN_B.parameters * 4 / GIB) if whole else 0)
    assert all(line.phases == {"sync"} for line in memory.memory_table(job).lines if line.name == "whole weights")


@pytest.mark.parametrize(("fields", "there"), [({}, False), ({"fsdp2": False}, True), ({"lora_rank": 32}, True)])
def test_offloaded_weights_are_streamed_to_vllm_with_fsdp2(fields, there):
    lines = memory.memory_table(changed(param_offload=True, **fields)).lines
    assert ("sync" in next(line.phases for line in lines if line.name == "actor parameters")) is there


def test_adapters_travel_without_the_embedding():
    sent = {base: gb(replace(changed(lora_rank=32), rollout=replace(ENGINE, sends_base=base)), "weight sync")
            for base in (False, True)}  # fmt: skip
    assert sent[True] == pytest.approx(gb(JOB, "weight sync")) == pytest.approx(2 + 152064 * 3584 * 4 / GIB)
    assert sent[False] == pytest.approx(2 + 18944 * 32 * 4 / GIB)


def test_a_tied_model_is_loaded_by_every_rank():
    tied = changed(shape=replace(SEVEN_B, tied=True))
    once = SEVEN_B.parameters * 4 / GIB
    assert gb(JOB, "actor being loaded") == pytest.approx(once)
    assert gb(tied, "actor being loaded") == pytest.approx(8 * tied.models[0].shape.parameters * 4 / GIB)
    trains = replace(JOB, reference=SEVEN_B, saves_model=True)  # more than one copy: loading is no longer the larger
    assert gb(trains, "actor being loaded") == 0 < gb(trains, "reference model")


def test_a_model_in_a_checkpoint_passes_the_host_whole():
    job = replace(changed(param_offload=True), saves_model=True)
    assert gb(job, "model being saved") == pytest.approx(SEVEN_B.parameters * (4 + 2) / GIB)


def of(*words: str) -> Job:
    composed = compose(["recipe=math_grpo", "hardware=8xh100", *words])
    shape = shape_of_config(OmegaConf.to_container(composed.posttrain.base_model.config))
    return composed.settings.job(shape, composed.posttrain.hardware)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"logit_bytes": (2, 2), "dense_mask": False, "whole_gradients": False, "fsdp2": True, "row": 0}),
        (("actor_rollout_ref.rollout.temperature=0.7",), {"logit_bytes": (4, 4)}),  # VeRL divides into a second tensor
        (("actor_rollout_ref.model.override_config.attn_implementation=sdpa",), {"dense_mask": True, "row": 0}),
        (("actor_rollout_ref.model.override_config.attn_implementation=sdpa", "actor_rollout_ref.model.use_remove_padding=false"),
         {"dense_mask": True, "row": 2048}),
        (("actor_rollout_ref.actor.fsdp_config.use_no_sync_for_gradient_accumulation=true",), {"whole_gradients": True}),
        (("actor_rollout_ref.actor.strategy=fsdp",), {"fsdp2": False}),
        (("actor_rollout_ref.actor.fsdp_config.reshard_after_forward=false",), {"reshards": False}),
    ],
)  # fmt: skip
def test_what_is_read_of_the_config(words, expected):
    actor = of(*words).models[0]
    assert {name: getattr(actor, name) for name in expected} == expected


def test_whether_a_model_is_saved_is_read_of_the_checkpoint():
    assert not of("actor_rollout_ref.actor.checkpoint.save_contents=[model]").saves_model
    assert of("actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]").saves_model


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
    assert len(found) >= 60
    assert sum(not verdict.fits for verdict in found) >= 10
    right = sum(verdict.right for verdict in found)
    assert right >= RIGHT, [verdict.name for verdict in found if not verdict.right]
