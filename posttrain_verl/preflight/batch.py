"""Batch arithmetic: what must divide, and what must fit, before VeRL asserts it on every worker.

The rules are those of VeRL 0.9.1: verl.utils.config.validate_config, ActorConfig and CriticConfig, and what
verl.workers.engine_workers (mini batch by data-parallel ranks) and verl.workers.engine.utils (micro batches) assert.
A batch that is no multiple of the mini batch is refused too: VeRL's v1 trainer fills it up with synthetic rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.problem import Problem
from posttrain_verl.verl import parallelism

RL_NUMBERS = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    parallelism.ACTOR_KEY,
    parallelism.DEPRECATED_ACTOR_KEY,
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
)
SFT_NUMBERS = (
    "data.train_batch_size",
    "data.max_length",
    "data.micro_batch_size_per_gpu",
    parallelism.SFT_KEY,
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
)
GROUP_BASELINES = ("grpo", "grpo_passk", "grpo_vectorized", "gdpo", "rloo", "rloo_vectorized", "opo", "gpg",
                   "reinforce_plus_plus_baseline", "optimal_token_baseline", "tir_optimal_token_baseline")  # fmt: skip
DEPRECATED = ("actor_rollout_ref.actor.ppo_micro_batch_size", "actor_rollout_ref.ref.log_prob_micro_batch_size",
              "actor_rollout_ref.rollout.log_prob_micro_batch_size", "critic.ppo_micro_batch_size")  # fmt: skip


def check(composed: Composed) -> list[Problem]:
    """Every rule of the stage that the launch breaks; only the wrong numbers if there are some."""
    config = composed.verl
    wrong = list(_no_numbers(config, SFT_NUMBERS if composed.stage == "sft" else RL_NUMBERS))
    if wrong:
        return wrong
    return list(_sft(config)) if composed.stage == "sft" else list(_rl(config))


def _no_numbers(config: DictConfig, keys: tuple[str, ...]) -> Iterator[Problem]:
    for key in keys:
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield Problem(f"{key}={value} is no whole number above 0", f"set {key} to one")


def _sft(config: DictConfig) -> Iterator[Problem]:
    ranks, uneven = _ranks(config, parallelism.sequence_parallel_size("sft", config))
    yield from uneven
    batch = config.data.train_batch_size
    yield from _divides("data.train_batch_size", batch, ranks, "data-parallel GPUs")
    if config.data.use_dynamic_bsz:
        parallel = parallelism.sequence_parallel_size("sft", config)
        yield from _fits("data.max_token_len_per_gpu", config.data.max_token_len_per_gpu, parallel,
                         "data.max_length", config.data.max_length)  # fmt: skip
    elif batch % ranks == 0:
        yield from _micro("data.micro_batch_size_per_gpu", config.data.micro_batch_size_per_gpu,
                          batch // ranks, "rows a GPU")  # fmt: skip


def _rl(config: DictConfig) -> Iterator[Problem]:
    split = parallelism.sequence_parallel_size("rl", config)
    ranks, uneven = _ranks(config, split)
    yield from uneven
    yield from _deprecated(config)
    yield from _whole_batch(config)
    yield from _group(config)
    yield from _mini("actor_rollout_ref.actor", config.actor_rollout_ref.actor, config, ranks, split)
    yield from _log_prob(config, ranks)
    if uses_critic(config):
        split = parallelism.critic_sequence_parallel_size(config)
        ranks, uneven = _ranks(config, split)
        yield from uneven
        yield from _mini("critic", config.critic, config, ranks, split)


def _deprecated(config: DictConfig) -> Iterator[Problem]:
    for key in DEPRECATED:
        if OmegaConf.select(config, key) is not None:
            what = f"{key} counts over all GPUs and is no longer read by VeRL's workers"
            yield Problem(what, f"set {key}_per_gpu in its place")


def _whole_batch(config: DictConfig) -> Iterator[Problem]:
    """validate_config asks for a multiple of the GPUs, whatever they share, unless batches are dynamic."""
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    sequences = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    if not config.actor_rollout_ref.actor.use_dynamic_bsz and sequences % gpus:
        what = f"data.train_batch_size x rollout.n = {sequences} sequences do not divide by {gpus} GPUs"
        yield Problem(what, f"make the product a multiple of {gpus}")


def _group(config: DictConfig) -> Iterator[Problem]:
    estimator, n = config.algorithm.adv_estimator, config.actor_rollout_ref.rollout.n
    if estimator in GROUP_BASELINES and n < 2:
        what = f"actor_rollout_ref.rollout.n={n}: {estimator} compares the answers of a group, and one has none"
        yield Problem(what, "set actor_rollout_ref.rollout.n to 4 or more")


def _mini(name: str, role: DictConfig, config: DictConfig, ranks: int, split: int) -> Iterator[Problem]:
    """Mini batches count prompts; each prompt is `rollout.n` sequences."""
    train, mini, n = config.data.train_batch_size, role.ppo_mini_batch_size, config.actor_rollout_ref.rollout.n
    key = f"{name}.ppo_mini_batch_size"
    if train < mini:
        yield Problem(f"{key}={mini} prompts is more than data.train_batch_size={train}", f"set {key}={train} or less")
        return
    yield from _divides("data.train_batch_size", train, mini, f"prompts a mini batch ({key})")
    if mini * n % ranks:
        what = f"{key}={mini} prompts x {n} rollouts = {mini * n} sequences do not divide by {ranks} data-parallel GPUs"
        yield Problem(what, f"make the product a multiple of {ranks}")
    elif role.use_dynamic_bsz:
        budget = role.ppo_max_token_len_per_gpu
        yield from _fits(f"{name}.ppo_max_token_len_per_gpu", budget, split, *_longest(config))
    else:
        yield from _micro(f"{name}.ppo_micro_batch_size_per_gpu", role.ppo_micro_batch_size_per_gpu,
                          mini * n // ranks, "sequences a GPU in a mini batch")  # fmt: skip


def _log_prob(config: DictConfig, ranks: int) -> Iterator[Problem]:
    """Log-probabilities are taken of the whole batch at once, on every rank in micro batches."""
    sequences = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    actor = config.actor_rollout_ref.actor
    needs_ref = config.algorithm.use_kl_in_reward or actor.use_kl_loss
    for name in ("rollout", "ref") if needs_ref else ("rollout",):
        role, key = config.actor_rollout_ref[name], f"actor_rollout_ref.{name}.log_prob_micro_batch_size_per_gpu"
        if role.log_prob_use_dynamic_bsz:
            parallel = parallelism.sequence_parallel_size("rl", config)
            budget = f"actor_rollout_ref.{name}.log_prob_max_token_len_per_gpu"
            yield from _fits(budget, role.log_prob_max_token_len_per_gpu, parallel, *_longest(config))
        elif sequences % ranks == 0:
            total = sequences // ranks
            yield from _micro(key, role.log_prob_micro_batch_size_per_gpu, total, "sequences a GPU in a batch")


def _ranks(config: DictConfig, sequence_parallel: int) -> tuple[int, list[Problem]]:
    """Data-parallel ranks: GPUs over the GPUs that share one sequence."""
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if gpus % sequence_parallel:
        what = f"{gpus} GPUs do not divide by ulysses_sequence_parallel_size={sequence_parallel}"
        return gpus, [Problem(what, "set it to a divisor of the number of GPUs")]
    return gpus // sequence_parallel, []


def _divides(key: str, value: int, by: int, unit: str) -> Iterator[Problem]:
    if value % by:
        below = value // by * by
        near = f"{below} or {below + by}" if below else str(by)
        yield Problem(f"{key}={value} does not divide by {by} {unit}", f"{key}={near} would")


def _micro(key: str, micro: int | None, total: int, unit: str) -> Iterator[Problem]:
    if not isinstance(micro, int) or micro < 1:
        yield Problem(f"{key}={micro}, and dynamic batches are off", f"set it to a divisor of {total}")
    elif total % micro:
        fitting = max(size for size in range(1, min(micro, total) + 1) if total % size == 0)
        yield Problem(f"{key}={micro} does not divide {total} {unit}", f"{key}={fitting} would")


def _longest(config: DictConfig) -> tuple[str, int]:
    """The longest sequence there can be: in words, and in tokens."""
    tokens = config.data.max_prompt_length + config.data.max_response_length
    return "data.max_prompt_length + data.max_response_length", tokens


def _fits(key: str, budget: int, parallel: int, longest: str, tokens: int) -> Iterator[Problem]:
    """GPUs that share a sequence (Ulysses) add up their budgets (verl.workers.engine.utils.prepare_micro_batches)."""
    if budget * parallel < tokens:
        shared = f" x {parallel} GPUs that share it" if parallel > 1 else ""
        what = f"{key}={budget}{shared} is less than one sequence ({longest}={tokens})"
        yield Problem(what, f"set {key}={-(-tokens // parallel)} or more")
