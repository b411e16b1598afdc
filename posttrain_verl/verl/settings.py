"""VeRL's config under names of ours: where VeRL keeps what the product reads or sets.

`settings.train_batch_size` is a value, `settings.key("train_batch_size")` the key under which VeRL keeps it, and
`settings.override("train_batch_size", 64)` the override that sets it. A trained model has the same names in every stage, so
code that works on one does not ask for the stage. Neither torch nor VeRL is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar, overload

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.base_models.shape import Shape
from posttrain_verl.verl.job import BYTES, RolloutEngine, TrainedModel, micro_tokens
from posttrain_verl.verl.renamed import current_key
from reward_fns.own import OwnReward

Value = TypeVar("Value")

VARLEN = "varlen"  # ours, posttrain_verl/verl/packed_rows.py
FLASH = "flash_attention_2"  # what VeRL takes where the key is missing (verl.workers.config.model)


def exchanges_parts(attention: str) -> bool:
    """Whether GPUs that share a sequence exchange its parts in it: ours, and every one that is called as flash-attn is."""
    return attention == VARLEN or "flash" in attention


def format_value(value: Any) -> str:
    """A value as the command line takes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Setting(Generic[Value]):
    """One value of VeRL's config, as a field of a `View`; None where the config does not have the key.

    `template` is the dotted key; `{node}` in it stands for an entry of the view's `nodes`. A `default` makes it a key of the
    stage's own, which VeRL's tree does not have.
    """

    def __init__(self, template: str, default: Any = None):
        self.template, self.default = template, default

    @overload
    def __get__(self, view: None, owner: type) -> Setting[Value]: ...
    @overload
    def __get__(self, view: View, owner: type) -> Value: ...
    def __get__(self, view: View | None, owner: type) -> Any:
        return self if view is None else OmegaConf.select(view.tree, view.key_of(self))


class View:
    """A part of VeRL's config, read and written by names of ours. `tree` is the whole config."""

    nodes: ClassVar[Mapping[str, str]] = {}

    def __init__(self, tree: DictConfig):
        self.tree = tree

    @classmethod
    def key_of(cls, setting: Setting[Any]) -> str:
        """The dotted key of a setting in the installed VeRL."""
        return current_key(setting.template.format_map(cls.nodes))

    @classmethod
    def key(cls, name: str) -> str:
        """The dotted key of the setting called `name`. Raises AttributeError where the view has no such setting."""
        return cls.key_of(getattr(cls, name))

    @classmethod
    def keys(cls, *names: str) -> tuple[str, ...]:
        return tuple(cls.key(name) for name in names)

    @classmethod
    def own_keys(cls) -> dict[str, Any]:
        """The keys that VeRL's tree does not have, each with its default."""
        fields = [field for name in dir(cls) if isinstance(field := getattr(cls, name), Setting)]
        return {cls.key_of(field): field.default for field in fields if field.default is not None}

    def override(self, name: str, *value: Any) -> str:
        """The override `key=value` that gives a setting a value; by default the value that it has."""
        return self.assign(name, value[0] if value else getattr(self, name))

    @classmethod
    def assign(cls, name: str, value: Any) -> str:
        """The override `key=value` that gives a setting a value, whatever the config is."""
        return f"{cls.key(name)}={format_value(value)}"

    @classmethod
    def assign_all(cls, values: Mapping[str, Any]) -> list[str]:
        return [cls.assign(name, value) for name, value in values.items()]

    def put(self, name: str, value: Any) -> None:
        OmegaConf.update(self.tree, self.key(name), value, force_add=True)


class ModelSettings(View):
    """A model that is trained: its optimizer, its engine, its checkpoints, and how its batches are cut.

    `nodes` says where VeRL keeps the model, the optimizer, the engine and the role that owns them. Micro batches count
    sequences or, with `dynamic_batches`, tokens; both on one device.
    """

    name: ClassVar[str]  # "model", "actor" or "critic": VeRL's name in checkpoints and metrics
    # What a checkpoint holds: its shards have the form of the first, and its optimizer and scheduler bring the second along.
    IN_SHARDS: ClassVar = ("lora_rank", "strategy", "fsdp_size")
    IN_OPTIMIZER: ClassVar = ("lr", "weight_decay", "betas", "optimizer", "optimizer_impl")
    outputs_values: ClassVar[bool] = False  # one number a token takes the place of the output layer
    group: ClassVar[int] = 1  # sequences that stay in one micro batch, whose size counts such groups

    path = Setting[str]("{model}.path")
    load_tokenizer = Setting[bool]("{model}.load_tokenizer")
    tokenizer_path = Setting[str | None]("{model}.tokenizer_path")
    chat_template = Setting[str | None]("{model}.custom_chat_template")
    override_config = Setting[DictConfig | None]("{model}.override_config")
    attention = Setting[str | None]("{model}.override_config.attn_implementation")
    gradient_checkpointing = Setting[bool]("{model}.enable_gradient_checkpointing")
    packed_rows = Setting[bool]("{model}.use_remove_padding")
    fused_kernels = Setting[bool]("{model}.use_fused_kernels")
    lora_rank = Setting[int]("{model}.lora_rank")
    lora_alpha = Setting[float]("{model}.lora_alpha")
    lora_targets = Setting[Any]("{model}.target_modules")
    lora_adapter = Setting[str | None]("{model}.lora_adapter_path")
    lora_merge = Setting[bool | None]("{model}.lora.merge")
    megatron_lora_rank = Setting[int | None]("{model}.lora.rank")

    lr = Setting[float]("{optim}.lr")
    weight_decay = Setting[float]("{optim}.weight_decay")
    betas = Setting[list[float]]("{optim}.betas")
    optimizer = Setting[str]("{optim}.optimizer")
    optimizer_impl = Setting[str]("{optim}.optimizer_impl")
    schedule_steps = Setting[int]("{optim}.total_training_steps")  # of the schedule of the learning rate
    warmup_steps = Setting[int]("{optim}.lr_warmup_steps")

    strategy = Setting[str]("{strategy}.strategy")
    fsdp_size = Setting[int]("{engine}.fsdp_size")
    sequence_parallel = Setting[int]("{engine}.ulysses_sequence_parallel_size")
    master_dtype = Setting[str]("{engine}.model_dtype")
    mixed_precision = Setting[DictConfig | None]("{engine}.mixed_precision")
    compute_dtype = Setting[str | None]("{engine}.mixed_precision.param_dtype")  # None: bf16
    param_offload = Setting[bool]("{engine}.param_offload")
    optimizer_offload = Setting[bool]("{engine}.optimizer_offload")
    offload_policy = Setting[bool]("{engine}.offload_policy")
    torch_compile = Setting[bool]("{engine}.use_torch_compile")
    reshard_after_forward = Setting[bool]("{engine}.reshard_after_forward")
    entropy_in_chunks = Setting[bool]("{engine}.entropy_from_logits_with_chunking")
    accumulates_unsharded = Setting[bool]("{engine}.use_no_sync_for_gradient_accumulation")

    save_contents = Setting[list[str]]("{checkpoint}.save_contents")
    save_lora_only = Setting[bool]("{checkpoint}.save_lora_only")
    kept_checkpoints: Setting[int | None]

    dynamic_batches: Setting[bool]
    micro_batch_size: Setting[int | None]
    token_budget: Setting[int]

    @property
    def gpus_per_sequence(self) -> int:
        """How many devices share one sequence (Ulysses)."""
        return int(self.sequence_parallel)

    @property
    def attention_in_force(self) -> str:
        """The name of the attention that VeRL will take."""
        node = self.override_config
        if node is None or not OmegaConf.is_dict(node) or "attn_implementation" not in node:
            return FLASH
        return str(node["attn_implementation"] or "sdpa")  # VeRL hands null on, and transformers takes sdpa

    def describe(self, shape: Shape, gpus: int, length: int, sequences: int, fill: float, **more: Any) -> TrainedModel:
        """The model in the terms of the memory model, on `gpus`, with sequences of `length` tokens at most.

        A device trains `sequences` in one optimizer step. `fill` is the length of a sequence as a share of the longest.
        `more` are fields that the stage knows.
        """
        split = self.gpus_per_sequence
        budget = self.token_budget if self.dynamic_batches else None
        tokens = micro_tokens(budget, self.micro_batch_size, sequences, length, fill, split, self.group)
        several, fsdp2 = sequences * length * fill / split > tokens, self.strategy == "fsdp2"
        fields: dict[str, Any] = {
            "name": self.name, "shape": shape, "tokens": tokens, "forward_tokens": tokens, "sequence_parallel": split,
            "shard": gpus if self.fsdp_size < 1 else min(self.fsdp_size, gpus),
            "lora_rank": self.lora_rank, "checkpointing": self.gradient_checkpointing,
            "master_bytes": BYTES.get(str(self.master_dtype), 4),
            "compute_bytes": BYTES.get(str(self.compute_dtype or "bf16"), 2),
            "param_offload": bool(self.param_offload), "optimizer_offload": bool(self.optimizer_offload),
            "offload_policy": bool(self.offload_policy) and fsdp2, "fsdp2": fsdp2,
            "reshards": bool(self.reshard_after_forward), "outputs_values": self.outputs_values,
            "whole_gradients": several and bool(self.accumulates_unsharded),
            "dense_mask": self.attention == "sdpa",  # PyTorch's own takes a mask for packed rows and for padded ones
            "row": length if self.packed_rows in (False, 0) else 0,
        }  # fmt: skip
        return TrainedModel(**(fields | more))

    def logit_bytes(self, in_loss: float, entropy: bool = True, temperature: float = 1.0) -> tuple[float, float]:
        """Bytes that one logit takes at the peak: in the loss and its gradient, and in the pass that takes log-probabilities.

        bf16 logits are 2; flash-attn's cross entropy writes its gradient in their place. Entropy in the loss keeps them and
        adds three bf16 tensors (two gradients and their sum) where it is compiled; where it is not, autocast makes three of
        fp32 (verl.utils.torch_functional.entropy_from_logits). A forward pass that measures entropy needs those three, too,
        unless it is compiled or taken in chunks. A temperature other than 1 divides the logits into a second tensor, and
        their gradient again (`_scale_logits_by_temperature`). Fused kernels never make the logits.
        """
        if self.fused_kernels:
            return 0, 0
        item = 4 if BYTES.get(str(self.compute_dtype)) == 4 else 2
        compiled = bool(self.torch_compile)
        cheap = compiled or bool(self.entropy_in_chunks)
        update = item if not in_loss else item + (3 * item if compiled else 12 + 2 * item)
        scaled = item if temperature != 1 else 0
        return update + scaled, (item if cheap or not entropy else item + 12) + scaled


class SftModel(ModelSettings):
    """The model of supervised fine-tuning."""

    name = "model"
    nodes: ClassVar[dict[str, str]] = {
        "model": "model",
        "optim": "optim",
        "engine": "engine",
        "strategy": "engine",
        "checkpoint": "checkpoint",
    }
    kept_checkpoints = Setting[int | None]("trainer.max_ckpt_to_keep")
    dynamic_batches = Setting[bool]("data.use_dynamic_bsz")
    micro_batch_size = Setting[int | None]("data.micro_batch_size_per_gpu")
    token_budget = Setting[int]("data.max_token_len_per_gpu")


class PpoModel(ModelSettings):
    """A model that RL trains in mini batches: the actor or the critic."""

    mini_batch_size = Setting[int]("{role}.ppo_mini_batch_size")  # prompts of one optimizer step
    dynamic_batches = Setting[bool]("{role}.use_dynamic_bsz")
    micro_batch_size = Setting[int | None]("{role}.ppo_micro_batch_size_per_gpu")
    token_budget = Setting[int]("{role}.ppo_max_token_len_per_gpu")
    whole_micro_batch_size = Setting[int | None]("{role}.ppo_micro_batch_size")  # over all devices; no longer read
    role_sequence_parallel = Setting[int | None]("{role}.ulysses_sequence_parallel_size")


class Actor(PpoModel):
    """The policy that RL trains."""

    name = "actor"
    nodes: ClassVar = {"role": "actor_rollout_ref.actor", "model": "actor_rollout_ref.model",
                       "optim": "actor_rollout_ref.actor.optim",
             "engine": "actor_rollout_ref.actor.fsdp_config", "strategy": "actor_rollout_ref.actor",
             "checkpoint": "actor_rollout_ref.actor.checkpoint"}  # fmt: skip
    kept_checkpoints = Setting[int | None]("trainer.max_actor_ckpt_to_keep")
    entropy_coeff = Setting[float]("actor_rollout_ref.actor.entropy_coeff")
    calculate_entropy = Setting[bool]("actor_rollout_ref.actor.calculate_entropy")
    use_kl_loss = Setting[bool]("actor_rollout_ref.actor.use_kl_loss")
    kl_loss_coef = Setting[float]("actor_rollout_ref.actor.kl_loss_coef")
    policy_loss = Setting[str]("actor_rollout_ref.actor.policy_loss.loss_mode")
    dro_beta = Setting[float | None]("actor_rollout_ref.actor.policy_loss.dro_beta")
    groups_prefixes = Setting[bool]("actor_rollout_ref.actor.use_prefix_grouper")

    @property
    def gpus_per_sequence(self) -> int:
        """As above. The deprecated key of the role still wins where it is above 1 (FSDPActorConfig)."""
        deprecated = int(self.role_sequence_parallel or 1)
        return deprecated if deprecated > 1 else int(self.sequence_parallel)


class Critic(PpoModel):
    """The value model of PPO. VeRL 0.9.1 reads `critic.ulysses_sequence_parallel_size` in no engine."""

    name = "critic"
    outputs_values = True
    nodes: ClassVar = {"role": "critic", "model": "critic.model", "optim": "critic.optim",
                       "engine": "critic.fsdp", "strategy": "critic", "checkpoint": "critic.checkpoint"}  # fmt: skip
    kept_checkpoints = Setting[int | None]("trainer.max_critic_ckpt_to_keep")
    enable = Setting[bool | None]("critic.enable")
    warmup = Setting[int | None]("trainer.critic_warmup")


OUR_REWARDS = "pkg://reward_fns"
MORE_THAN_NOTHING = 1e-6  # a score above 0, for numbers that VeRL keeps as float32
REHEARSED = (
    "rehearsed"  # the argument of a rehearsal's reward that names the recipe's own (posttrain_verl.rehearse.reward)
)


class RewardSettings(View):
    """Who grades the answers of a rollout: a function, and the manager that calls it on workers."""

    reward_workers = Setting[int]("reward.num_workers")
    reward_path = Setting[str | None]("reward.custom_reward_function.path")
    reward_name = Setting[str | None]("reward.custom_reward_function.name")
    reward_arguments = Setting[DictConfig | None]("reward.custom_reward_function.reward_kwargs")  # beside the row
    manager_name = Setting[str]("reward.reward_manager.name")
    manager_source = Setting[str]("reward.reward_manager.source")
    manager_arguments = Setting[DictConfig | None]("reward.reward_kwargs")
    overlong_buffer = Setting[int | None]("reward.reward_kwargs.overlong_buffer_cfg.len")
    overlong_penalty = Setting[bool | None]("reward.reward_kwargs.overlong_buffer_cfg.enable")
    overlong_factor = Setting[float | None]("reward.reward_kwargs.overlong_buffer_cfg.penalty_factor")
    shaping = Setting[DictConfig | None]("reward.custom_reward_function.reward_kwargs.shaping")
    partial = Setting[bool | None]("reward.custom_reward_function.reward_kwargs.partial")
    reward_model = Setting[DictConfig]("reward.reward_model")
    reward_model_path = Setting[str | None]("reward.reward_model.model_path")
    source_column = Setting[str]("data.reward_fn_key")
    max_response_length = Setting[int]("data.max_response_length")

    @property
    def own_reward(self) -> OwnReward | None:
        """The reward of the user's own; None for ours and for VeRL's. In a rehearsal it is the one that is rehearsed."""
        node = self.reward_arguments
        arguments: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else {}
        path, name = self.reward_path, self.reward_name
        if isinstance(rehearsed := arguments.pop(REHEARSED, None), dict):
            path, name = rehearsed.get("path"), rehearsed.get("name")
        return None if path in (None, OUR_REWARDS) else OwnReward(str(path), str(name), arguments)

    @property
    def arguments_of_manager(self) -> tuple[str, ...]:
        """The names that VeRL 0.9.1's manager reads of `manager_arguments`."""
        return ("overlong_buffer_cfg", "max_resp_len") if self.manager_name == "dapo" else ()

    @property
    def right_at(self) -> float | None:
        """The score from which on an answer is right, where the reward implies one: ours, whose verdict is 1 or 0.

        DAPO's penalty takes at most its factor from either. A right answer keeps more than 0, unless it fills the whole limit.
        """
        if self.reward_path != OUR_REWARDS or self.shaping:
            return None
        if not (self.arguments_of_manager and self.overlong_penalty):
            return 1.0
        return None if self.partial or (self.overlong_factor or 1.0) > 1 else MORE_THAN_NOTHING


class Scorer(View):
    """Who takes log-probabilities of the whole batch without gradients: the rollout's trainer side, or the reference."""

    dynamic_batches = Setting[bool]("{role}.log_prob_use_dynamic_bsz")
    micro_batch_size = Setting[int | None]("{role}.log_prob_micro_batch_size_per_gpu")
    token_budget = Setting[int]("{role}.log_prob_max_token_len_per_gpu")
    whole_micro_batch_size = Setting[int | None]("{role}.log_prob_micro_batch_size")


class Reference(Scorer):
    """The reference model of a KL penalty."""

    nodes: ClassVar = {"role": "actor_rollout_ref.ref"}
    param_offload = Setting[bool]("actor_rollout_ref.ref.fsdp_config.param_offload")


class Rollout(Scorer):
    """The engine that samples answers, which shares the devices with training."""

    nodes: ClassVar = {"role": "actor_rollout_ref.rollout"}
    node = Setting[DictConfig]("{role}")
    engine = Setting[str]("{role}.name")
    answers_per_prompt = Setting[int]("{role}.n")
    dtype = Setting[str]("{role}.dtype")
    quantization = Setting[str | None]("{role}.quantization")
    load_format = Setting[str]("{role}.load_format")
    layered_summon = Setting[bool]("{role}.layered_summon")
    tensor_parallel = Setting[int]("{role}.tensor_model_parallel_size")
    data_parallel = Setting[int]("{role}.data_parallel_size")
    expert_parallel = Setting[int | None]("{role}.expert_parallel_size")
    memory_share = Setting[float]("{role}.gpu_memory_utilization")
    max_model_len = Setting[int | None]("{role}.max_model_len")
    max_num_seqs = Setting[int]("{role}.max_num_seqs")
    max_num_batched_tokens = Setting[int]("{role}.max_num_batched_tokens")
    chunked_prefill = Setting[bool]("{role}.enable_chunked_prefill")
    enforce_eager = Setting[bool]("{role}.enforce_eager")
    do_sample = Setting[bool]("{role}.do_sample")
    temperature = Setting[float]("{role}.temperature")
    seed = Setting[int | None]("{role}.seed")
    nnodes = Setting[int]("{role}.nnodes")
    checkpoint_backend = Setting[str]("{role}.checkpoint_engine.backend")
    bucket_megabytes = Setting[int | None]("{role}.checkpoint_engine.update_weights_bucket_megabytes")
    model_overrides = Setting[Any]("{role}.engine_kwargs.vllm.hf_overrides")
    validation_answers = Setting[int]("{role}.val_kwargs.n")
    validation_samples = Setting[bool]("{role}.val_kwargs.do_sample")
    validation_temperature = Setting[float]("{role}.val_kwargs.temperature")
    agent_loop = Setting[str | None]("{role}.agent.default_agent_loop")
    simulated_user = Setting[str | None]("{role}.multi_turn.interaction_config_path")
    prometheus_port = Setting[int | None]("{role}.prometheus.port")
    prometheus_enable = Setting[bool]("{role}.prometheus.enable")
    bootstrap_port = Setting[int | None]("{role}.disaggregation.bootstrap_port")
    data_parallel_port = Setting[int | None]("{role}.engine_kwargs.vllm.data_parallel_rpc_port")

    def ports(self) -> Iterator[tuple[str, Any]]:
        """Keys that fix a port and are in force, each with its value."""
        names = (*(["prometheus_port"] if self.prometheus_enable else []), "bootstrap_port", "data_parallel_port")
        for name in names:
            yield self.key(name), getattr(self, name)

    def describe(self, shape: Shape, longest: int, lora: bool, merges_lora: bool) -> RolloutEngine:
        """The engine in the terms of the memory model, for sequences of `longest` tokens at most.

        Under LoRA more than adapters travel to it where VeRL merges them, or where vLLM did not load the base itself.
        """
        length = self.max_model_len or max(shape.context or 0, longest)  # null: VeRL takes the model's whole context
        batched = self.max_num_batched_tokens
        if not self.chunked_prefill:  # vLLMHttpServer._validate_configs raises it
            batched = max(batched, length)
        return RolloutEngine(
            shape, self.tensor_parallel, self.memory_share, length, max_num_seqs=self.max_num_seqs,
            batched_tokens=batched, item=BYTES.get(str(self.dtype), 2), eager=bool(self.enforce_eager),
            bucket=(self.bucket_megabytes or 2048) * 2**20, keeps_weights=lora, layered_summon=bool(self.layered_summon),
            sends_base=lora and (merges_lora or "dummy" in str(self.load_format)),
        )  # fmt: skip
