"""Configs that are wrong in one place, made at random from valid ones, each with what must be said about it.

A mutation is `{key: value}` laid over a valid config; REMOVED takes the key away. A kind makes one from a random
generator and a valid config, or none where it does not apply.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import omegaconf.base
import pytest
from omegaconf import DictConfig, OmegaConf

REMOVED = "__removed__"
Changes = dict[str, Any]
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@dataclass(frozen=True)
class Mutant:
    """`base` names the valid config; one of `said` must be part of a problem."""

    base: str
    kind: str
    changes: Changes
    said: tuple[str, ...]


@dataclass(frozen=True)
class Valid:
    """A valid config: what a kind may look at."""

    name: str
    stage: str
    verl: DictConfig
    files: dict[str, str]  # broken or missing files by what is wrong with them

    def get(self, key: str) -> Any:
        return OmegaConf.select(self.verl, key)

    def leaves(self) -> list[tuple[str, Any]]:
        """Scalars of VeRL's own keys, outside the nodes that take any key."""
        tree = OmegaConf.to_container(self.verl, resolve=True)
        return [(path, value) for path, value in _leaves(tree) if not _is_free(path)]


Kind = Callable[[random.Random, Valid], tuple[Changes, tuple[str, ...]] | None]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


def mutants(valid: list[Valid], count: int, seed: int) -> list[Mutant]:
    """`count` mutants, the kinds in turn, the rest at random from `seed`."""
    dice, made = random.Random(seed), []
    while len(made) < count:
        for name, make in KINDS.items():
            base = dice.choice(valid)
            if (found := make(dice, base)) is not None:
                made.append(Mutant(base.name, name, *found))
    return made[:count]


def apply(verl: DictConfig, changes: Changes) -> DictConfig:
    """A copy of a config with the changes laid over it, as `++key=value` and `~key` do."""
    config = pickle.loads(pickle.dumps(verl))  # six times faster than copy()
    OmegaConf.set_struct(config, False)
    for key, value in changes.items():
        if value == REMOVED:
            parent, _, leaf = key.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            del node[leaf]
        else:
            OmegaConf.update(config, key, value, force_add=True, merge=not isinstance(value, dict))
    return config


@contextmanager
def quick_interpolations() -> Iterator[None]:
    """OmegaConf parses each `${...}` whenever it meets it, half of the time that 500 configs take; here once a text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omegaconf.base, "parse", cache(omegaconf.base.parse))
        yield


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _is_free(path: str) -> bool:
    """Nodes that are handed on as they are, and legacy ones that nobody reads."""
    dead = path.split(".")[0] in ("custom_reward_function", "reward_model", "sandbox_fusion")
    names = ("_kwargs", "override_", "ray_init", "teacher_models", "mbridge", "fused_kernel", "kw_args", "nsight_options",
             "_target_", "turbo_config", "engine_kwargs", "layer_name_map", "lora.", "wrap_policy", "tiled_mlp")  # fmt: skip
    return dead or any(name in path for name in names)


def _one_of(dice: random.Random, table: dict[str, list[Any]]) -> tuple[str, Any]:
    key = dice.choice(list(table))
    return key, dice.choice(table[key])


@kind
def misspelt_key(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    """A letter of a key doubled, dropped, or exchanged with the next."""
    path, value = dice.choice([leaf for leaf in valid.leaves() if len(leaf[0].rpartition(".")[2]) > 3])
    parts = path.split(".")
    place = dice.randrange(len(parts))
    word = parts[place]
    at = dice.randrange(1, max(len(word) - 1, 2))
    wrong = dice.choice(
        [word[:at] + word[at] + word[at:], word[:at] + word[at + 1 :] + "q", word[:at] + "x" + word[at:]]
    )
    parts[place] = wrong
    return {".".join(parts): value}, (f"{'.'.join(parts)} is not a key of VeRL",)


@kind
def misplaced_key(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    """A key one level too high or at the root."""
    deep = [leaf for leaf in valid.leaves() if leaf[0].count(".") >= 2]
    path, value = dice.choice(deep)
    parts = path.split(".")
    wrong = ".".join([*parts[:-2], f"{parts[-1]}_of_{parts[-2]}"]) if dice.random() < 0.5 else f"{parts[-1]}_here"
    return {wrong: value}, (f"{wrong} is not a key of VeRL",)


@kind
def legacy_key(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]] | None:
    if valid.stage == "sft":
        return None
    key = dice.choice(["custom_reward_function.path", "reward_model.reward_manager", "reward_model.num_workers",
                       "sandbox_fusion.url", "reward_model.reward_kwargs.mode"])  # fmt: skip
    return {key: "something"}, (f"{key} is a legacy key",)


@kind
def wrong_type(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    """A word, list or mapping for a number; a number for a switch; a fraction for a count."""
    numbers = [leaf for leaf in valid.leaves() if isinstance(leaf[1], bool | int | float)]
    path, value = dice.choice(numbers)
    if isinstance(value, bool):
        wrong: Any = dice.choice([3, "maybe", [True]])
    elif isinstance(value, int) and not path.endswith(
        ("_ratio", "_coeff", "top_p", "esi_redundant_time", "lr", "loss_coef")
    ):
        wrong = dice.choice(["many", [1, 2], {"a": 1}, True])
    else:
        wrong = dice.choice(["much", [0.1], {"a": 1}])
    return {path: wrong}, (f"{path}=", f"{path} has keys below it")


@kind
def fraction_of_a_count(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    rl = [f"{ROLLOUT}.n", f"{ACTOR}.ppo_mini_batch_size", f"{ACTOR}.ppo_epochs", f"{ROLLOUT}.max_num_seqs",
          "data.max_prompt_length", f"{ROLLOUT}.tensor_model_parallel_size"]  # fmt: skip
    sft = ["data.max_length", "optim.lr_warmup_steps", "engine.fsdp_size"]
    key = dice.choice([*(rl if valid.stage == "rl" else sft), "data.train_batch_size", "trainer.total_epochs"])
    return {key: dice.choice([1.5, 2.25])}, (f"{key}=",)


@kind
def null(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    rl = [f"{ROLLOUT}.n", f"{ROLLOUT}.temperature", f"{ACTOR}.optim.lr", f"{ACTOR}.use_kl_loss", "trainer.save_freq",
          f"{ROLLOUT}.gpu_memory_utilization", "data.val_files", "data.train_files"]  # fmt: skip
    sft = ["data.max_length", "optim.lr", "data.train_files", "trainer.save_freq", "data.use_dynamic_bsz"]
    key = dice.choice([*(rl if valid.stage == "rl" else sft), "trainer.total_epochs", "trainer.nnodes"])
    return {key: None}, (f"{key}=",)


UNKNOWN_RL = {
    "algorithm.adv_estimator": ["grop", "reinforce", "GRPO"],
    f"{ACTOR}.policy_loss.loss_mode": ["vanila", "gspo_token"],
    f"{ACTOR}.loss_agg_mode": ["token_mean", "mean"],
    f"{ACTOR}.kl_loss_type": ["low_var", "full"],
    "algorithm.kl_penalty": ["klx", "k4"],
    "algorithm.kl_ctrl.type": ["fix", "adaptative"],
    f"{ACTOR}.optim.lr_scheduler_type": ["linear", "cosin"],
    f"{ACTOR}.optim.warmup_style": ["linear"],
    f"{ACTOR}.strategy": ["fsdp3", "ddp"],
    f"{ACTOR}.checkpoint.save_contents": [["model", "optim"], ["weights"]],
    f"{ACTOR}.fsdp_config.model_dtype": ["fp23", "half"],
    f"{ROLLOUT}.name": ["vlm", "hf"],
    f"{ROLLOUT}.mode": ["sync", "asynch"],
    f"{ROLLOUT}.dtype": ["bf16", "fp32"],
    f"{ROLLOUT}.load_format": ["safetensor", "dumy"],
    f"{ROLLOUT}.scheduling_policy": ["fifo"],
    f"{ROLLOUT}.checkpoint_engine.backend": ["navie", "gloo"],
    f"{ROLLOUT}.agent.default_agent_loop": ["single_turn"],
    f"{ROLLOUT}.quantization": ["int4"],
    "reward.reward_manager.name": ["prime", "batch", "naiv"],
    "trainer.v1.trainer_mode": ["synchronous", "async"],
    "trainer.v1.sampler.max_off_policy_strategy": ["dropp"],
    "algorithm.rollout_correction.rollout_is": ["seq"],
    "algorithm.rollout_correction.loss_type": ["ppo"],
}
UNKNOWN_SFT = {
    "engine.strategy": ["fsdp3", "ddp"],
    "optim.lr_scheduler_type": ["linear", "cosin"],
    "engine.model_dtype": ["fp23", "half"],
    "checkpoint.save_contents": [["model", "optim"], ["weights"]],
    "data.truncation": ["cut", "none"],
    "data.pad_mode": ["right", "left"],
}
UNKNOWN = {"trainer.resume_mode": ["always", "resume"], "trainer.logger": [["consol"], ["console", "wanbd"]],
           "trainer.device": ["gpu", "tpu"]}  # fmt: skip


@kind
def unknown_name(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    key, value = _one_of(dice, {**(UNKNOWN_RL if valid.stage == "rl" else UNKNOWN_SFT), **UNKNOWN})
    return {key: value}, (f"{key}=",)


OUT_OF_RANGE_RL = {
    f"{ACTOR}.optim.lr": [0.0, -1e-6, 2.0],
    f"{ACTOR}.clip_ratio_c": [1.0, 0.5],
    f"{ACTOR}.clip_ratio_low": [-0.2],
    f"{ACTOR}.ppo_epochs": [0],
    f"{ROLLOUT}.temperature": [0.0, -1.0],
    f"{ROLLOUT}.top_p": [0.0, 1.5],
    f"{ROLLOUT}.gpu_memory_utilization": [0.0, 1.2, 60.0],
    f"{ROLLOUT}.max_num_seqs": [0],
    f"{ROLLOUT}.pipeline_model_parallel_size": [2],
    f"{ROLLOUT}.val_kwargs.n": [0],
    "algorithm.gamma": [1.1],
    "algorithm.lam": [-0.1],
    "reward.num_workers": [0],
    "actor_rollout_ref.model.lora_rank": [1024],
}
OUT_OF_RANGE_SFT = {"optim.lr": [0.0, -1e-5, 1.0], "optim.lr_warmup_steps_ratio": [1.5, -0.1],
                    "optim.betas": [[0.9, 1.0]], "model.lora_rank": [-8]}  # fmt: skip


@kind
def out_of_range(dice: random.Random, valid: Valid) -> tuple[Changes, tuple[str, ...]]:
    shared = {"trainer.total_epochs": [0, -1], "trainer.total_training_steps": [0, -5], "trainer.save_freq": [-2]}
    key, value = _one_of(dice, {**(OUT_OF_RANGE_RL if valid.stage == "rl" else OUT_OF_RANGE_SFT), **shared})
    return {key: value}, (f"{key}=",)
