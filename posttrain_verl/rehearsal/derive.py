"""From a recipe planned for GPUs to the launch that rehearses it on the CPU backend: the same recipe, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.compose import Composed, compose
from posttrain_verl.preflight import data

STEPS = 2  # before the checkpoint; a third after the resume
PROMPTS, ROLLOUTS, ROWS = 4, 4, 8
PROMPT, RESPONSE, SEQUENCE = 1024, 24, 256  # tokens at most
OVERLONG = 8
CODE_MIX, OTHER_MIX = "embedded_code", "embedded"
CODE_SETS = frozenset({"humaneval", "mbpp", "livecodebench"})  # evaluations of recipes that write programs

# Words of the user that the rehearsal has its own of.
REPLACED = ("hardware", "base_model", "mix", "cluster", "posttrain.base_model", "posttrain.hardware", "posttrain.cluster",
            "posttrain.detach", "posttrain.run_id", "posttrain.runs_dir", "posttrain.sized_for")  # fmt: skip


def rehearsal(planned: Composed, home: Path, model: Path, run_id: str, *more: str) -> Composed:
    """The rehearsal of `planned` with the tiny `model`, as run `run_id` in `home`; `more` are further words."""
    words = [word for word in planned.overrides if not _is_replaced(word)]
    own = [*_common(planned, home, run_id), *(_sft() if planned.stage == "sft" else _rl(planned.verl)), *more]
    given = [f"base_model={model}", "hardware=cpu", f"mix={mix(planned)}"]
    return compose([*words, *given, *own], fixed=frozenset(word.partition("=")[0] for word in own))


def mix(planned: Composed) -> str:
    """The recipe's own mix where its files are there, else an embedded one of its kind."""
    if has_its_data(planned):
        return planned.choices["mix"]
    return CODE_MIX if CODE_SETS & set(planned.posttrain.evals) or "code" in planned.choices["mix"] else OTHER_MIX


def has_its_data(planned: Composed) -> bool:
    """Whether the Parquet files that the recipe trains and validates on are on this machine."""
    files = data.files(planned)
    return bool(files) and all(file.is_file() for file in files)


def _is_replaced(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return any(key == name or key.startswith(f"{name}.") for name in REPLACED)


def _common(planned: Composed, home: Path, run_id: str) -> list[str]:
    trainer = {"total_training_steps": STEPS, "total_epochs": 100, "save_freq": STEPS, "test_freq": STEPS,
               "logger": "[console,file]", "n_gpus_per_node": 1, "nnodes": 1}  # fmt: skip
    limits = {"train_max_samples": 64, "val_max_samples": ROWS}
    return [f"posttrain.runs_dir='{home}'", f"posttrain.run_id={run_id}", *_words("trainer", trainer),
            *_words("data", limits)]  # fmt: skip


def _sft() -> list[str]:
    return _words("data", {"train_batch_size": ROWS, "micro_batch_size_per_gpu": ROWS // 2, "use_dynamic_bsz": "false",
                           "max_length": SEQUENCE, "truncation": "right"})  # fmt: skip


def _rl(config: DictConfig) -> list[str]:
    """Batches of the same structure: as many optimizer steps a batch (two at most), groups, gradient accumulation."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    group = min(rollout.n, ROLLOUTS)
    prompts = PROMPTS if group > 1 else 2 * PROMPTS
    mini = prompts // min(2, max(1, config.data.train_batch_size // actor.ppo_mini_batch_size))
    micro = mini * group // 2
    words = _words("data", {"train_batch_size": prompts, "max_response_length": RESPONSE,
                            "max_prompt_length": min(config.data.max_prompt_length, PROMPT)})  # fmt: skip
    words += _words("actor_rollout_ref", {
        "rollout.n": group, "actor.ppo_mini_batch_size": mini, "actor.use_dynamic_bsz": "false",
        "actor.ppo_micro_batch_size_per_gpu": micro, "ref.log_prob_micro_batch_size_per_gpu": micro,
        "rollout.log_prob_micro_batch_size_per_gpu": micro,
    })  # fmt: skip
    words += ["trainer.val_before_train=false", f"critic.ppo_micro_batch_size_per_gpu={micro}"]
    return words + _reward(config)


def _reward(config: DictConfig) -> list[str]:
    """The recipe's reward inside the rehearsal's, and what depends on the response length."""
    own = config.reward.custom_reward_function
    words = _words("reward.custom_reward_function", {
        "path": "pkg://posttrain_verl.rehearsal.reward", "name": "compute_score",
        "reward_kwargs.rehearsed.path": own.path or "null", "reward_kwargs.rehearsed.name": own.name,
    })  # fmt: skip
    if OmegaConf.select(config, "reward.reward_kwargs.overlong_buffer_cfg.len") is not None:
        words.append(f"reward.reward_kwargs.overlong_buffer_cfg.len={OVERLONG}")
    if config.algorithm.filter_groups.enable:
        words.append("algorithm.filter_groups.metric=score")  # the verifier's own parts do not vary with a random model
    return words


def _words(node: str, values: dict[str, Any]) -> list[str]:
    return [f"{node}.{key}={value}" for key, value in values.items()]
