"""Reinforcement learning with verifiable rewards: VeRL's `ppo_trainer` on Ray, for GRPO, RLOO, PPO and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import paths
from posttrain_verl.base_models.shape import Shape
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl import checks, rl_rules
from posttrain_verl.verl.job import Batch, Job, TrainedModel, counted, micro_tokens
from posttrain_verl.verl.metrics import LONGEST_PROMPT, LONGEST_RESPONSE, REWARD
from posttrain_verl.verl.rl_rules import AlgorithmSettings
from posttrain_verl.verl.row_terms import MeasuredLength, RowLimit
from posttrain_verl.verl.schema import generated_tree
from posttrain_verl.verl.settings import (
    OUR_REWARDS,
    REHEARSED,
    Actor,
    Critic,
    ModelSettings,
    PpoModel,
    Reference,
    RewardSettings,
    Rollout,
    Scorer,
    Setting,
)
from posttrain_verl.verl.stage import (
    Settings,
    Stage,
    is_count,
    is_count_or_null,
    is_number,
    register,
)

# A rehearsal: prompts of a step and answers to each, and tokens at most.
REHEARSED_PROMPTS, REHEARSED_GROUP = 4, 4
REHEARSED_PROMPT, REHEARSED_RESPONSE, REHEARSED_OVERLONG = 1024, 24, 8


class RlSettings(AlgorithmSettings, RewardSettings):
    """The settings of reinforcement learning."""

    model_types = (Actor, Critic)
    length_names = ("max_prompt_length", "max_response_length")
    data_endings = (".parquet", ".json", ".jsonl")  # RLHFDataset

    max_prompt_length = Setting[int]("data.max_prompt_length")
    filters_overlong_prompts = Setting[bool]("data.filter_overlong_prompts")
    prompt_column = Setting[str]("data.prompt_key")
    image_column = Setting[str]("data.image_key")
    video_column = Setting[str]("data.video_key")
    audio_column = Setting[str]("data.audio_key")
    rollout_dir = Setting[str | None]("trainer.rollout_data_dir")
    validation_dir = Setting[str | None]("trainer.validation_data_dir")
    data_seed = Setting[int | None]("data.seed")
    filters_groups = Setting[bool]("algorithm.filter_groups.enable")
    queue_port = Setting[int | None]("transfer_queue.metrics.port")
    queue_metrics = Setting[bool]("transfer_queue.metrics.enabled")

    @property
    def reward(self) -> RewardSettings:
        return self

    @property
    def columns(self) -> dict[str, str]:
        return {self.prompt_column: "chat", self.source_column: "text", "reward_model": "truth"}

    @property
    def side_columns(self) -> dict[str, tuple[str, bool]]:
        return {"extra_info": ("struct", True)}

    @property
    def media(self) -> dict[str, str]:
        return {self.image_column: "<image>", self.video_column: "<video>", self.audio_column: "<audio>"}

    @property
    def row_limit(self) -> RowLimit:
        """Overlong prompts are dropped when the set is read, or end the run at the first one."""
        drops = bool(self.filters_overlong_prompts)
        return RowLimit(self.key("max_prompt_length"), self.max_prompt_length, not drops and self.truncation == "error",
                        "dropped" if drops else "cut", self.override("filters_overlong_prompts", True))  # fmt: skip

    @classmethod
    def measured_lengths(cls) -> tuple[MeasuredLength, ...]:
        return (MeasuredLength("longest response", LONGEST_RESPONSE, cls.key("max_response_length")),
                MeasuredLength("longest prompt", LONGEST_PROMPT, cls.key("max_prompt_length")))  # fmt: skip

    def ports(self) -> Iterator[tuple[str, Any]]:
        yield from super().ports()
        if self.queue_metrics:
            yield self.key("queue_port"), self.queue_port

    @property
    def trains_critic(self) -> bool:
        """Whether VeRL trains a critic: asked for, or needed by GAE (verl.trainer.ppo.utils.need_critic)."""
        asked = self.critic.enable
        return bool(asked) if asked is not None else self.advantage_estimator == "gae"

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of a reference are taken, for a KL penalty in the reward or in the loss."""
        return bool(self.kl_in_reward or self.actor.use_kl_loss)

    @property
    def models(self) -> list[ModelSettings]:
        return [self.actor, *([self.critic] if self.trains_critic else [])]

    @property
    def micro_batches(self) -> list[tuple[ModelSettings | Scorer, int]]:
        answers = self.rollout.answers_per_prompt
        mini, batch = self.actor.mini_batch_size * answers, self.train_batch_size * answers
        scorers: list[tuple[ModelSettings | Scorer, int]] = [
            (self.actor, mini),
            (self.rollout, batch),
            (self.reference, batch),
        ]
        return scorers + ([(self.critic, mini)] if self.trains_critic else [])

    @property
    def longest_rollout(self) -> int | None:
        """Tokens of the longest prompt and its response; None where these are not numbers, which preflight reports.

        VeRL 0.9.1 counts all turns of a conversation as one response and ends it at `data.max_response_length`. It looks
        before it appends a turn of a simulated user (ToolAgentLoop), so there one more response must fit.
        """
        prompt, response = self.max_prompt_length, self.max_response_length
        if not isinstance(prompt, int) or not isinstance(response, int):
            return None
        return prompt + response * (2 if self.rollout.simulated_user else 1)

    def batch(self) -> Batch:
        updates = max(self.train_batch_size // self.actor.mini_batch_size, 1)
        return self._count_batch(self.rollout.answers_per_prompt, updates, "sequence")

    def experiment_keys(self) -> tuple[str, ...]:
        return *super().experiment_keys(), self.actor.key("mini_batch_size"), self.rollout.key("answers_per_prompt")

    def describe_step(self) -> str:
        step = self.batch()
        return (f"{counted(step.prompts, 'prompt')} x {counted(step.rollouts, 'rollout')} = "
                f"{counted(step.sequences, 'sequence')} a step; "
                f"{counted(step.updates, 'optimizer step')} of {counted(self.actor.mini_batch_size, 'prompt')}")  # fmt: skip

    def job(self, shape: Shape, facts: Any, fill: float = 1.0) -> Job:
        lora, merges = self.actor.lora_rank > 0, bool(self.actor.lora_merge)
        return replace(super().job(shape, facts, fill), rollout=self.rollout.describe(shape, self.longest, lora, merges),
                       reference=shape if self.needs_reference and not lora else None)  # fmt: skip

    def describe_models(self, shape: Shape, fill: float) -> Iterator[TrainedModel]:
        actor, rollout, split = self.actor, self.rollout, self.actor.gpus_per_sequence
        in_loss = actor.entropy_coeff or float(actor.calculate_entropy)
        # Log-probabilities are taken of the whole batch at once.
        batch = self.train_batch_size * rollout.answers_per_prompt * split // self.world_size
        budget = rollout.token_budget if rollout.dynamic_batches else None
        tokens = micro_tokens(budget, rollout.micro_batch_size, batch, self.longest, fill, split)
        logits = actor.logit_bytes(in_loss, temperature=rollout.temperature)
        trained: list[tuple[PpoModel, dict[str, Any]]] = [(actor, {"logit_bytes": logits, "forward_tokens": tokens})]
        if self.trains_critic:
            trained.append((self.critic, {"logit_bytes": (0, 0)}))
        for model, more in trained:
            update = model.mini_batch_size * rollout.answers_per_prompt * model.gpus_per_sequence // self.world_size
            yield model.describe(shape, self.world_size, self.longest, update, fill, **more)

    @property
    def effective_batch_key(self) -> str:
        return Actor.key("mini_batch_size")

    def engine_problems(self, facts: dict[str, Any], hardware: DictConfig) -> Iterator[Problem]:
        actor, rollout = self.actor, self.rollout
        split, split_key = actor.role_sequence_parallel, actor.key("role_sequence_parallel")
        yield from checks.check_heads(split_key, split, facts)
        if isinstance(split, int) and split > 1 and not actor.packed_rows:
            yield Problem(f"{split_key}={split} needs packed rows", actor.override("packed_rows", True))
        yield from super().engine_problems(facts, hardware)
        yield from rl_rules.check_replicas(self, rollout, facts)
        yield from rl_rules.check_limits(self, rollout, facts)
        if rollout.dynamic_batches != actor.dynamic_batches:  # engine_workers asserts it
            key = rollout.key("dynamic_batches")
            what = f"{key}={rollout.dynamic_batches} and actor.use_dynamic_bsz={actor.dynamic_batches} differ"
            yield Problem(what, f"leave {key} out")
        yield from rl_rules.check_largest_weight(self, rollout, facts)
        yield from self.check_trainer()
        yield from self.check_asynchronous()
        yield from rl_rules.check_precision(rollout, hardware)
        yield from self._check_resource_pools()

    def _check_resource_pools(self) -> Iterator[Problem]:
        """Models with GPUs of their own need some (PPOTrainer asks for more than 0)."""
        teacher, reward = self.distillation, self.reward_model
        wanted = {"distillation": teacher if teacher.enabled else None,
                  "reward_model": reward if reward.enable_resource_pool else None}  # fmt: skip
        for name, pool in wanted.items():
            if pool is not None and (pool.nnodes < 1 or pool.n_gpus_per_node < 1):
                key = self.key(name)
                yield Problem(f"{key} asks for GPUs of its own and has none", f"{key}.nnodes=1 {key}.n_gpus_per_node=1")
        if reward.enable and not self.reward_model_path:
            what = f"{self.key('reward_model')}.enable=true without a model"
            yield Problem(what, f"give {self.key('reward_model_path')}")
        elif reward.enable and self.reward_path == OUR_REWARDS:
            what = (
                f"{self.key('reward_model')}.enable=true starts a model that nobody asks: our rewards grade without one"
            )
            remedy = f"{self.key('reward_model')}.enable=false, or {self.key('reward_path')}= a function of yours that asks it"
            yield Problem(what, remedy)

    def training_problems(self) -> Iterator[Problem]:
        yield from self.check_group_filter(self.reward_path == OUR_REWARDS)
        yield from rl_rules.check_sampling(self.rollout)
        yield from self.check_loss()

    def frequency_problems(self) -> Iterator[Problem]:
        for name in ("save_every", "validate_every"):
            if isinstance(getattr(self, name), str):
                what = f"{self.override(name)}: VeRL's RL trainer takes a number of steps"
                yield Problem(what, f"set {self.override(name, 20)}, or -1")
        if self.save_every in (-1, 0):
            key = self.key("save_every")
            what = f"{key}={self.save_every}: VeRL's RL trainer never saves then, not even at the end"
            yield warning(what, f"set {key} to the number of steps, or fewer")
        for model in (model for model in (self.actor, self.critic) if model.kept_checkpoints == 1):
            what = (f"{model.override('kept_checkpoints')}: VeRL logs an RL step after its checkpoint and validation; a run that "
                    "is killed in between resumes from the checkpoint before, which is gone")  # fmt: skip
            remedy = "for which VeRL needs no more disk: it then deletes the oldest before it writes"
            yield warning(what, f"{model.override('kept_checkpoints', 2)}, {remedy}")

    def warmup_problems(self, steps: int) -> Iterator[Problem]:
        warmup, key = self.critic.warmup, Critic.key("warmup")
        if isinstance(warmup, int) and warmup >= steps:
            what = f"{key}={warmup} of {steps} steps: the actor would never be trained"
            yield Problem(what, f"set {key} lower")
        yield from super().warmup_problems(steps)

    def _batch_numbers(self) -> tuple[str, ...]:
        return (*self.keys(*self.length_names), Actor.key("mini_batch_size"),
                *Rollout.keys("answers_per_prompt", "tensor_parallel"),
                *Actor.keys("sequence_parallel", "role_sequence_parallel"))  # fmt: skip

    def _uneven_batches(self) -> Iterator[Problem]:
        actor, rollout, split = self.actor, self.rollout, self.actor.gpus_per_sequence
        sequences = self.train_batch_size * rollout.answers_per_prompt
        yield from self._check_split(split)
        for view in (actor, self.reference, rollout, self.critic):
            if view.whole_micro_batch_size is not None:
                what = (
                    f"{view.key('whole_micro_batch_size')} counts over all GPUs, and VeRL's workers no longer read it"
                )
                yield Problem(what, f"set {view.key('micro_batch_size')} in its place")
        # validate_config asks for a multiple of the GPUs, whatever they share, unless batches are dynamic.
        if not actor.dynamic_batches and sequences % self.world_size:
            name = f"{self.key('train_batch_size')} x rollout.n"
            what = f"{name} = {sequences} sequences do not divide by {self.world_size} GPUs"
            yield Problem(what, f"make the product a multiple of {self.world_size}")
        yield from self.check_group_size()
        yield from self._check_mini_batch(actor)
        # Log-probabilities are taken of the whole batch at once, on every rank in micro batches.
        scorers: list[Scorer] = [rollout, *([self.reference] if self.needs_reference else [])]
        for scorer in scorers:
            yield from self._check_micro_batches(scorer, sequences, split, "sequences a GPU in a batch")
        if self.trains_critic:
            yield from self._check_split(self.critic.gpus_per_sequence)
            yield from self._check_mini_batch(self.critic)

    def _check_mini_batch(self, model: PpoModel) -> Iterator[Problem]:
        """Mini batches count prompts; each prompt is `rollout.n` sequences.

        A batch that is not a multiple of the mini batch is refused, too: VeRL's v1 trainer fills it up with synthetic rows.
        """
        train, mini, answers = self.train_batch_size, model.mini_batch_size, self.rollout.answers_per_prompt
        name, key = self.key("train_batch_size"), model.key("mini_batch_size")
        if train < mini:
            yield Problem(f"{key}={mini} prompts is more than {name}={train}", f"set {key}={train} or less")
            return
        yield from checks.check_divides(name, train, mini, f"prompts a mini batch ({key})")
        split = model.gpus_per_sequence
        sequences, ranks = mini * answers, self._data_parallel(split)
        if sequences % ranks:
            what = f"{key}={mini} prompts x {answers} rollouts = {sequences} sequences"
            yield Problem(
                f"{what} do not divide by {ranks} data-parallel GPUs", f"make the product a multiple of {ranks}"
            )
        else:
            yield from self._check_micro_batches(model, sequences, split, "sequences a GPU in a mini batch")

    @property
    def grader(self) -> str:
        return str(self.reward_name or "")

    @property
    def graders_per_node(self) -> int:
        return math.ceil((self.reward_workers or 0) / self.nodes_count)

    def rehearsal_overrides(self, steps: int, reward: str) -> list[str]:
        """Batches of the same structure: as many optimizer steps a batch (two at most), groups, gradient accumulation."""
        actor, group = self.actor, min(self.rollout.answers_per_prompt, REHEARSED_GROUP)
        prompts = REHEARSED_PROMPTS * (1 if group > 1 else 2)
        mini = prompts // min(2, max(1, self.train_batch_size // actor.mini_batch_size))
        lengths = {"max_prompt_length": min(self.max_prompt_length, REHEARSED_PROMPT),
                   "max_response_length": REHEARSED_RESPONSE}  # fmt: skip
        micro = {"micro_batch_size": mini * group // 2}
        return [
            *super().rehearsal_overrides(steps, reward),
            *self.assign_all({"train_batch_size": prompts, "validate_first": False} | lengths),
            *Actor.assign_all({"mini_batch_size": mini, "dynamic_batches": False} | micro),
            *Rollout.assign_all({"answers_per_prompt": group} | micro),
            *chain(*(model.assign_all(micro) for model in (Reference, Critic))),
            # The recipe's reward inside the rehearsal's, and what depends on the response length.
            *self.assign_all({"reward_path": f"pkg://{reward}", "reward_name": "compute_score"}),
            f"{self.key('reward_arguments')}.{REHEARSED}.path={self.reward_path or 'null'}",
            f"{self.key('reward_arguments')}.{REHEARSED}.name={self.reward_name}",
            *([self.assign("overlong_buffer", REHEARSED_OVERLONG)] if self.overlong_buffer is not None else []),
            # The verifier's own parts do not vary with a random model.
            *([self.assign("filter_metric", "score")] if self.filters_groups else []),
        ]

    def not_rehearsed(self) -> list[str]:
        rollout = self.rollout
        return [
            *(["tensor parallelism of vLLM"] if rollout.tensor_parallel != 1 else []),
            *super().not_rehearsed(),
            *(["offload of the reference"] if self.reference.param_offload else []),
            *(["quantized rollouts (fp8)"] if rollout.quantization is not None else []),
        ]

    def is_readable(self) -> bool:
        return OmegaConf.is_dict(self._read(self.key("algorithm_node"))) and super().is_readable()

    def _keys_of_plan(self) -> Iterator[tuple[Callable[[Any], bool], Iterable[str]]]:
        yield from super()._keys_of_plan()
        yield is_count, Rollout.keys("answers_per_prompt", "tensor_parallel", "max_num_seqs", "max_num_batched_tokens",
                                     "token_budget")  # fmt: skip
        yield is_count, [model.key("mini_batch_size") for model in self.models]
        yield is_count, Actor.keys("role_sequence_parallel")
        yield is_number, [Actor.key("entropy_coeff"), Rollout.key("memory_share")]
        yield is_count_or_null, Rollout.keys("micro_batch_size", "max_model_len", "bucket_megabytes")


class RlStage(Stage):
    """Reinforcement learning."""

    name = "rl"
    trunk = "ppo_trainer"
    settings_type = RlSettings
    cpus_per_device = 3  # ResourcePoolManager
    weights_folder = "actor"
    usual_lr = (5e-8, 1e-5)  # in use are 5e-7 to 1e-6, and 3e-5 with LoRA (VeRL docs/algo/baseline.md, SkyRL)
    usual_lora_lr = (5e-7, 3e-4)
    needed_files = ("train_files", "val_files")
    saves_last_step = False
    fewest_checkpoints = 2  # a step is logged after its checkpoint, and a run resumes from a step that was logged
    # Nodes that main_ppo ignores (verl.experimental.reward_loop.migrate_legacy_reward_impl, which VeRL no longer calls).
    dead_keys: ClassVar = {
        "custom_reward_function": "reward.custom_reward_function",
        "sandbox_fusion": "reward.sandbox_fusion",
        "reward_model.reward_manager": "reward.reward_manager.name",
        "reward_model.num_workers": "reward.num_workers",
        "reward_model.reward_loop_source": "reward.reward_manager.source",
        "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
        "reward_model.reward_loop_class_name": "reward.reward_manager.module.name",
        "reward_model.model.path": "reward.reward_model.model_path",
        "reward_model.reward_kwargs": "reward.reward_kwargs",
        "reward_model": "reward.reward_model",
    }
    headline = REWARD

    def shipped_tree(self, choices: dict[str, str]) -> dict[str, Any] | None:
        return generated_tree(choices)

    def complete(self, tree: DictConfig, user_keys: frozenset[str]) -> None:
        """vLLM does not start where its cache cannot hold one sequence of `max_model_len` tokens, and a model's context is
        often many times what a recipe samples. A null of the user's stays null. A reward's file gets its absolute path."""
        super().complete(tree, user_keys)
        rollout = Rollout(tree)
        if (
            rollout.key("max_model_len") not in user_keys
            and OmegaConf.is_dict(rollout.node)
            and rollout.max_model_len is None
        ):
            rollout.put("max_model_len", RlSettings(tree).longest_rollout)
        settings = RlSettings(tree)
        if isinstance(settings.reward_path, str):  # workers of VeRL may have another current folder
            settings.put("reward_path", paths.absolute_paths(settings.reward_path))

    def follow_changes(self, config: DictConfig, before: DictConfig) -> None:
        old = Rollout(before).max_model_len
        if old is not None and old == Rollout(config).max_model_len == RlSettings(before).longest_rollout:
            Rollout(config).put("max_model_len", RlSettings(config).longest_rollout)

    def describe_training(self, settings: Settings) -> str:
        own = RlSettings(settings.tree)
        critic = f", which trains a critic ({own.override('advantage_estimator')})" if own.trains_critic else ""
        return f"{self.name.upper()} with {self.algorithm(settings).upper()}{critic}"

    def algorithm(self, settings: Settings) -> str:
        estimator = RlSettings(settings.tree).advantage_estimator
        return "ppo" if estimator == "gae" else str(estimator or self.name)

    def file_keys(self) -> tuple[str, ...]:
        return *super().file_keys(), RlSettings.key("reward_path")

    def seed_overrides(self, seed: int) -> list[str]:
        return [RlSettings.assign("data_seed", seed), Rollout.assign("seed", seed)]

    def train(self, config: DictConfig) -> None:
        from posttrain_verl.verl.trainers import train_rl

        train_rl(config)

    def run_paths(self, run_dir: Path) -> dict[str, str]:
        return super().run_paths(run_dir) | {RlSettings.key("rollout_dir"): str(run_dir / "rollouts"),
                                             RlSettings.key("validation_dir"): str(run_dir / "validation")}  # fmt: skip


register(RlStage())
