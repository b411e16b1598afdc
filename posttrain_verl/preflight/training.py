"""Settings that VeRL takes without a word and that spoil a training: learning rates, precision, LoRA, groups, KL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import reward_fns
from posttrain_verl.base_models import is_embedded
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import model
from posttrain_verl.problem import Problem, warning

# Learning rates in use, by stage and by what is trained: SFT 1e-5 to 4e-5 (Tulu 3, open math SFT) and 1e-4 to 2e-4 with
# LoRA; RL 5e-7 to 1e-6 and 3e-5 with LoRA (VeRL docs/algo/baseline.md, SkyRL), each with room of about a factor of ten.
LR_RANGES = {("sft", False): (1e-6, 1e-4), ("sft", True): (1e-5, 1e-3),
             ("rl", False): (5e-8, 1e-5), ("rl", True): (5e-7, 3e-4)}  # fmt: skip
LR_DESTROYS = 1e-3  # VeRL's default for SFT: full fine-tuning of a pretrained model does not survive it
SMALL_MODEL = 50_000_000  # parameters; models below learn at higher rates
HALF = ("bf16", "bfloat16", "fp16", "float16", "16")
LOSES_UPDATES = 1e-5  # of a weight near 0.02, bf16 keeps steps of 8e-5: updates of AdamW are about the learning rate


def check(composed: Composed) -> list[Problem]:
    """Every such setting of the launch."""
    stage = _sft if composed.stage == "sft" else _rl
    return [*_learning_rate(composed), *_precision(composed), *_lora(composed), *stage(composed)]


def _parts(composed: Composed) -> tuple[DictConfig, DictConfig, DictConfig]:
    """The model, optimizer and engine that are trained."""
    if composed.stage == "sft":
        return composed.verl.model, composed.verl.optim, composed.verl.engine
    actor = composed.verl.actor_rollout_ref.actor
    return composed.verl.actor_rollout_ref.model, actor.optim, actor.get("fsdp_config", actor)


def _key(composed: Composed, part: str) -> str:
    prefix = {"model": "actor_rollout_ref.model", "optim": "actor_rollout_ref.actor.optim",
              "engine": "actor_rollout_ref.actor.fsdp_config"}  # fmt: skip
    return part if composed.stage == "sft" else prefix[part]


def _learning_rate(composed: Composed) -> Iterator[Problem]:
    parts, key = _parts(composed), f"{_key(composed, 'optim')}.lr"
    lora, lr = parts[0].lora_rank > 0, parts[1].lr
    size = model.size(composed)
    if is_embedded(composed.model) if size is None else size < SMALL_MODEL:
        return
    low, high = LR_RANGES[composed.stage, lora]
    mode = "LoRA" if lora else "full fine-tuning"
    if lr >= LR_DESTROYS and not lora:
        yield Problem(f"{key}={lr:g} destroys a pretrained model in {mode}", f"{key} between {low:g} and {high:g}")
    elif not low <= lr <= high:
        what = f"{key}={lr:g} is far from what {composed.stage.upper()} with {mode} uses"
        yield warning(what, f"usual values lie between {low:g} and {high:g}")


def _precision(composed: Composed) -> Iterator[Problem]:
    parts = _parts(composed)
    dtype, lr = str(parts[2].get("model_dtype")), parts[1].lr
    if dtype not in HALF:
        return
    key = f"{_key(composed, 'engine')}.model_dtype"
    what = f"{key}={dtype}: weights in 16 bits lose updates of lr={lr:g}"
    blocks = lr <= LOSES_UPDATES and parts[0].lora_rank == 0
    yield Problem(what, f"{key}=fp32 (param_offload if memory is short)", "problem" if blocks else "warning")


def _lora(composed: Composed) -> Iterator[Problem]:
    model_config, key = _parts(composed)[0], _key(composed, "model")
    if model_config.get("lora", {}).get("rank", 0) > 0:
        what = f"{key}.lora.rank is read by Megatron alone: FSDP would train every weight"
        yield Problem(what, f"use {key}.lora_rank={model_config.lora.rank}")
    if model_config.lora_rank <= 0:
        return
    yield from _lora_checkpoint(composed, key)
    adapter = model_config.get("lora_adapter_path")
    if adapter and str(adapter).startswith(("/", "~", ".")) and not Path(adapter).expanduser().is_dir():
        yield Problem(f"{key}.lora_adapter_path={adapter} does not exist", "give the folder of an adapter, or null")
    if composed.stage == "rl" and "dummy" in str(composed.verl.actor_rollout_ref.rollout.load_format):
        rollout = "actor_rollout_ref.rollout.load_format"
        what = f"{rollout}=dummy with LoRA: only the adapter is sent, on top of random base weights"
        yield Problem(what, f"{rollout}=safetensors")


def _lora_checkpoint(composed: Composed, key: str) -> Iterator[Problem]:
    """VeRL 0.9.1 fills `huggingface/` from the state dict as peft names it, so that no weight has its place."""
    prefix = "" if composed.stage == "sft" else "actor_rollout_ref.actor."
    contents = OmegaConf.select(composed.verl, f"{prefix}checkpoint.save_contents") or []
    if "hf_model" not in contents:
        return
    kept = ",".join(part for part in contents if part != "hf_model")
    yield warning(
        f"{prefix}checkpoint.save_contents has hf_model, and {key}.lora_rank > 0: VeRL writes base and adapter side by side, "
        "which transformers takes for missing weights",
        f"{prefix}checkpoint.save_contents=[{kept}]; python -m posttrain_verl.export merges the adapter, or writes it alone",
    )


def _sft(composed: Composed) -> Iterator[Problem]:
    config = composed.verl
    if config.data.truncation == "left":
        yield warning(
            "data.truncation=left cuts the prompt of a long row and keeps its answer", "data.truncation=right"
        )
    if config.model.get("use_remove_padding") is False and config.engine.ulysses_sequence_parallel_size > 1:
        what = "engine.ulysses_sequence_parallel_size > 1 needs packed rows"
        yield Problem(what, "model.use_remove_padding=true, or engine.ulysses_sequence_parallel_size=1")


def _rl(composed: Composed) -> Iterator[Problem]:
    yield from _kl(composed.verl)
    yield from _groups(composed.verl)
    yield from _sampling(composed.verl)
    yield from _loss(composed.verl)


def _kl(config: DictConfig) -> Iterator[Problem]:
    actor, in_reward = config.actor_rollout_ref.actor, config.algorithm.use_kl_in_reward
    if actor.use_kl_loss and in_reward:
        yield warning("KL is punished twice: in the reward (algorithm.use_kl_in_reward) and in the loss (actor.use_kl_loss)",
                      "turn one of them off")  # fmt: skip
    if actor.use_kl_loss and actor.kl_loss_coef == 0:
        yield warning("actor_rollout_ref.actor.kl_loss_coef=0: a reference model is held in memory for nothing",
                      "actor_rollout_ref.actor.use_kl_loss=false")  # fmt: skip


def _groups(config: DictConfig) -> Iterator[Problem]:
    """Dynamic sampling (DAPO's filter_groups) needs groups, VeRL's own replay buffer, and a metric of the grades."""
    filtering: Any = config.algorithm.get("filter_groups") or {}
    if not filtering.get("enable"):
        return
    sampler = config.trainer.v1.sampler
    if config.actor_rollout_ref.rollout.n < 2:
        yield Problem("algorithm.filter_groups drops groups without variance, and a group of one has none: no batch "
                      "would ever be full", "actor_rollout_ref.rollout.n=8, or filter_groups.enable=false")  # fmt: skip
    passed_on = (sampler.sampler_kwargs.get("filter_groups") or {}).get("enable")
    if sampler.custom_sampler.path and sampler.custom_sampler.name and not passed_on:
        yield Problem("algorithm.filter_groups is ignored: VeRL hands a custom sampler no filter",
                      "set trainer.v1.sampler.sampler_kwargs.filter_groups as in conf/rl.yaml")  # fmt: skip
    metric, own = filtering.get("metric"), config.reward.custom_reward_function.path == "pkg://reward_fns"
    known = ("reward", *(key for key in reward_fns.KEYS if key != "pred"))
    if not metric or (own and metric not in known):
        yield Problem(
            f"algorithm.filter_groups.metric={metric} is no part of a grade", f"use one of {', '.join(known)}"
        )


def _sampling(config: DictConfig) -> Iterator[Problem]:
    rollout = config.actor_rollout_ref.rollout
    if rollout.get("do_sample") is False:
        what = "actor_rollout_ref.rollout.do_sample=false: every answer of a group would be the same"
        yield Problem(what, "leave it true; validation has val_kwargs.do_sample")
    if rollout.val_kwargs.n > 1 and not (rollout.val_kwargs.do_sample and rollout.val_kwargs.temperature > 0):
        yield warning(f"actor_rollout_ref.rollout.val_kwargs.n={rollout.val_kwargs.n} greedy answers are all the same",
                      "set val_kwargs.do_sample=true val_kwargs.temperature=1.0, or val_kwargs.n=1")  # fmt: skip


def _loss(config: DictConfig) -> Iterator[Problem]:
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.get("rollout_correction") or {}
    if actor.policy_loss.loss_mode == "dro" and not actor.policy_loss.dro_beta:
        key = "actor_rollout_ref.actor.policy_loss"
        yield Problem(f"{key}.loss_mode=dro needs {key}.dro_beta", f"{key}.dro_beta=1.0")
    if correction.get("rollout_rs") and correction.get("rollout_rs_threshold") is None:
        key = "algorithm.rollout_correction.rollout_rs"
        yield Problem(f"{key} needs {key}_threshold", f"{key}_threshold=2.0, or {key}=null")
    if config.algorithm.adv_estimator == "gdpo" and not config.algorithm.get("gdpo_reward_keys"):
        yield Problem("algorithm.adv_estimator=gdpo needs algorithm.gdpo_reward_keys", "e.g. [acc, format]")
