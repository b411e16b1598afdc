"""What VeRL 0.9.1 and vLLM ask of an RL launch: the loss that an algorithm makes of rewards, and the rollout engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig

import reward_fns
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.settings import Actor, Critic, Reference, Rollout, Setting
from posttrain_verl.verl.stage import Settings

GROUP_BASELINES = ("grpo", "grpo_passk", "grpo_vectorized", "gdpo", "rloo", "rloo_vectorized", "opo", "gpg",
                   "reinforce_plus_plus_baseline", "optimal_token_baseline", "tir_optimal_token_baseline")  # fmt: skip


class AlgorithmSettings(Settings):
    """Advantages, KL, groups, corrections, which trainer takes them, and the models and the engine that they are about."""

    rollout: Rollout

    is_v1_trainer = Setting[bool]("trainer.use_v1")
    trainer_mode = Setting[str]("trainer.v1.trainer_mode")
    weight_sync_steps = Setting[int]("trainer.v1.separate_async.parameter_sync_step")
    sampler_path = Setting[str | None]("trainer.v1.sampler.custom_sampler.path")
    sampler_name = Setting[str | None]("trainer.v1.sampler.custom_sampler.name")
    sampler_filter = Setting[DictConfig | None]("trainer.v1.sampler.sampler_kwargs.filter_groups")
    algorithm_node = Setting[DictConfig]("algorithm")
    advantage_estimator = Setting[str]("algorithm.adv_estimator")
    kl_in_reward = Setting[bool]("algorithm.use_kl_in_reward")
    filter_groups = Setting[DictConfig | None]("algorithm.filter_groups")
    filter_metric = Setting[str | None]("algorithm.filter_groups.metric")
    rollout_rejection = Setting[str | None]("algorithm.rollout_correction.rollout_rs")
    rejection_threshold = Setting[Any]("algorithm.rollout_correction.rollout_rs_threshold")
    distillation = Setting[DictConfig]("distillation")
    distillation_rewards = Setting[bool]("distillation.distillation_loss.use_task_rewards")
    gdpo_reward_keys = Setting[Any]("algorithm.gdpo_reward_keys")

    def __init__(self, tree: DictConfig):
        super().__init__(tree)
        self.actor, self.critic, self.reference, self.rollout = (
            Actor(tree),
            Critic(tree),
            Reference(tree),
            Rollout(tree),
        )

    def check_trainer(self) -> Iterator[Problem]:
        """Keys of VeRL's old trainer, which has none of our hooks: the v1 trainer does not read them."""
        if not self.is_v1_trainer:
            what = (
                f"{self.override('is_v1_trainer')}: the old trainer has neither our replay buffer nor our checkpoints"
            )
            yield Problem(what, self.override("is_v1_trainer", True))
        if self.actor.groups_prefixes:
            what = f"{self.actor.override('groups_prefixes')} is read by VeRL's old trainer only: nothing would change"
            yield Problem(what, self.actor.override("groups_prefixes", False))

    def check_asynchronous(self) -> Iterator[Problem]:
        """What PPOTrainerSeparateAsync asserts when it is made."""
        if self.trainer_mode != "separate_async":
            return
        rollout, mini = self.rollout, self.actor.mini_batch_size
        mode, steps = self.override("trainer_mode"), self.weight_sync_steps
        if self.train_batch_size != steps * mini:
            product = f"parameter_sync_step={steps} x ppo_mini_batch_size={mini}"
            what = f"{mode} needs {self.override('train_batch_size')} to be {product}"
            yield Problem(what, self.override("train_batch_size", steps * mini))
        if rollout.nnodes < 1:
            what = f"{mode} needs GPUs of its own for the rollout, and {rollout.override('nnodes', 0)}"
            yield Problem(what, rollout.override("nnodes", 1))
        if rollout.checkpoint_backend == "naive":
            what = f"{mode} cannot send weights with {rollout.override('checkpoint_backend')}"
            yield Problem(what, rollout.override("checkpoint_backend", "nccl"))

    @property
    def learns_from_rewards(self) -> bool:
        """Whether rewards are in the loss. VeRL leaves them out where a teacher alone is followed
        (verl.trainer.distillation.losses)."""
        teacher = self.distillation
        return not (teacher and teacher.get("enabled")) or self.distillation_rewards is not False

    def check_group_size(self) -> Iterator[Problem]:
        """A baseline of the group needs a group."""
        rollout = self.rollout
        if not self.learns_from_rewards:
            return
        if self.advantage_estimator in GROUP_BASELINES and rollout.answers_per_prompt < 2:
            key, estimator = "answers_per_prompt", self.advantage_estimator
            what = f"{rollout.override(key)}: {estimator} compares the answers of a group, and one has none"
            yield Problem(what, f"set {rollout.key(key)} to 4 or more")

    def check_group_filter(self, own_rewards: bool) -> Iterator[Problem]:
        """Dynamic sampling (DAPO's filter_groups) needs groups, VeRL's own replay buffer, and a metric of the grades."""
        rollout, filtering = self.rollout, cast(Any, self.filter_groups or {})
        if not filtering.get("enable"):
            return
        name, metric = self.key("filter_groups"), filtering.get("metric")
        if rollout.answers_per_prompt < 2:
            remedy = f"{rollout.override('answers_per_prompt', 8)}, or filter_groups.enable=false"
            yield Problem(f"{name} drops groups without variance, and a group of one has none: no batch would ever be full",
                          remedy)  # fmt: skip
        passed_on: Any = self.sampler_filter or {}
        if self.sampler_path and self.sampler_name and not passed_on.get("enable"):
            yield Problem(f"{name} is ignored: VeRL hands a custom sampler no filter",
                          f"set {self.key('sampler_filter')} as in conf/rl.yaml")  # fmt: skip
        known = ("reward", *(key for key in reward_fns.KEYS if key != "pred"))
        if not metric or (own_rewards and metric not in known):
            yield Problem(f"{name}.metric={metric} is not a part of a grade", f"use one of {', '.join(known)}")

    def check_loss(self) -> Iterator[Problem]:
        """KL is punished in one place, and with a weight; a loss, a correction and an estimator have what they need."""
        actor = self.actor
        if actor.use_kl_loss and self.kl_in_reward:
            in_reward = self.key("kl_in_reward")
            yield warning(f"KL is punished twice: in the reward ({in_reward}) and in the loss (actor.use_kl_loss)",
                          "turn one of them off")  # fmt: skip
        if actor.use_kl_loss and actor.kl_loss_coef == 0:
            what = f"{actor.override('kl_loss_coef', 0)}: a reference model is held in memory for nothing"
            yield warning(what, actor.override("use_kl_loss", False))
        if actor.policy_loss == "dro" and not actor.dro_beta:
            what = f"{actor.override('policy_loss')} needs {actor.key('dro_beta')}"
            yield Problem(what, actor.override("dro_beta", 1.0))
        if self.rollout_rejection and self.rejection_threshold is None:
            key, threshold = self.key("rollout_rejection"), self.key("rejection_threshold")
            yield Problem(f"{key} needs {threshold}", f"{threshold}=2.0, or {key}=null")
        if self.advantage_estimator == "gdpo" and not self.gdpo_reward_keys:
            what = f"{self.override('advantage_estimator')} needs {self.key('gdpo_reward_keys')}"
            yield Problem(what, "e.g. [acc, format]")


MIB, FP32 = 2**20, 4


def check_replicas(settings: Settings, rollout: Rollout, facts: dict[str, Any]) -> Iterator[Problem]:
    """A replica of vLLM is tensor x data x pipeline parallel GPUs: part of a node, or whole nodes."""
    per_node, world = settings.gpus_per_node, settings.world_size
    tensor, data = rollout.tensor_parallel, rollout.data_parallel
    replica = tensor * data
    if tensor < 1 or data < 1:
        return
    whole = per_node % replica == 0 if replica <= per_node else replica % per_node == 0
    if not whole or world % replica:
        what = rollout.override("tensor_parallel") + (f" x data_parallel_size={data}" if data > 1 else "")
        what += f": {settings.override('gpus_per_node')} does not divide by {replica} GPUs a replica"
        what += f" ({world} GPUs in all)" if world != per_node else ""
        yield Problem(what, f"{rollout.override('tensor_parallel', 1)} or a divisor of {per_node}")
    experts = rollout.expert_parallel or 1
    if experts > 1 and experts != replica:
        what = f"{rollout.override('expert_parallel')} is not tensor x data parallel = {replica}"
        yield Problem(what, f"{rollout.override('expert_parallel', replica)}, or 1")
    heads = facts.get("num_attention_heads")
    if heads and heads % tensor:
        what = f"{rollout.override('tensor_parallel')} does not divide the model's {heads} attention heads"
        yield Problem(what, "set it to a divisor of them")


def check_limits(settings: Settings, rollout: Rollout, facts: dict[str, Any]) -> Iterator[Problem]:
    """What vLLM holds of a sequence, and of a batch (SchedulerConfig)."""
    if not settings.has_lengths:
        return  # the check of the batch says so
    longest, limit = settings.longest, facts.get("max_position_embeddings")
    length, needed = rollout.max_model_len, f"{settings.longest_key} = {longest}"
    if length is not None and length < longest:
        yield Problem(f"{rollout.override('max_model_len')} is less than {needed}: vLLM would cut answers short",
                      rollout.override("max_model_len", longest))  # fmt: skip
    if limit and length is not None and longest <= limit < length:
        what = f"{rollout.override('max_model_len')} is more than the model's context of {limit} tokens"
        yield Problem(what, f"{rollout.override('max_model_len', limit)} or less")
    batched, window = rollout.max_num_batched_tokens, length or limit or longest
    at_once = rollout.override("max_num_batched_tokens")
    if not rollout.chunked_prefill and batched < window:
        remedy = f"{rollout.override('chunked_prefill', True)}, or {rollout.override('max_num_batched_tokens', window)}"
        what = f"{at_once} is less than max_model_len={window} without chunked prefill: VeRL raises it"
        yield warning(what, remedy)
        batched = window
    if batched < rollout.max_num_seqs:
        yield Problem(f"{at_once} is less than max_num_seqs={rollout.max_num_seqs}",
                      f"{rollout.override('max_num_seqs', batched)} or less")  # fmt: skip


def check_largest_weight(settings: Settings, rollout: Rollout, facts: dict[str, Any]) -> Iterator[Problem]:
    """Through shared memory a weight must go in one piece; CUDA sends one that is too large by itself (VeRL 0.9.1)."""
    if settings.device != "cpu" or settings.model.lora_rank > 0:
        return
    bucket, largest = rollout.bucket_megabytes, facts.get("vocab_size", 0) * facts.get("hidden_size", 0) * FP32
    if isinstance(bucket, int) and bucket * MIB < largest:
        what = f"{rollout.override('bucket_megabytes')} does not hold the model's embedding of {-(-largest // MIB)} MiB"
        yield Problem(what, rollout.override("bucket_megabytes", -(-largest // MIB)))


def check_precision(rollout: Rollout, hardware: DictConfig) -> Iterator[Problem]:
    """vLLM refuses bf16 before compute capability 8.0; fp8 without units for it is only slow."""
    units = hardware.get("dtypes") or ()
    if not hardware.get("memory_gb"):
        return  # no GPU
    if rollout.dtype == "bfloat16" and "bf16" not in units:
        yield Problem(f"{rollout.override('dtype')}, and the GPUs of hardware={hardware.name} have no bf16",
                      f"GPUs of compute capability 8.0 or later, or {rollout.override('dtype', 'float16')}")  # fmt: skip
    if rollout.quantization == "fp8" and "fp8" not in units:
        key = "quantization"
        what = f"{rollout.override(key)}, and the GPUs of hardware={hardware.name} are not known to multiply in fp8"
        yield warning(what, f"GPUs of compute capability 8.9 or later, or {rollout.override(key, None)}")


def check_sampling(rollout: Rollout) -> Iterator[Problem]:
    """Answers to one question must be able to differ."""
    if rollout.do_sample is False:
        what = f"{rollout.override('do_sample')}: every answer of a group would be the same"
        yield Problem(what, "leave it true; validation has val_kwargs.do_sample")
    samples = rollout.validation_samples and rollout.validation_temperature > 0
    if rollout.validation_answers > 1 and not samples:
        yield warning(f"{rollout.override('validation_answers')} greedy answers are all the same",
                      "set val_kwargs.do_sample=true val_kwargs.temperature=1.0, or val_kwargs.n=1")  # fmt: skip
