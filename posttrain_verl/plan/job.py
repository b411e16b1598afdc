"""What the memory model reads of a launch: the models it trains, how they are split, and the rollout engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.plan.shape import Shape
from posttrain_verl.verl.parallelism import critic_sequence_parallel_size, sequence_parallel_size

GIB = 2**30
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}
TYPICAL_FILL = 0.5  # of the longest sequence, where the data says nothing: sequences end before their limit


@dataclass(frozen=True)
class Trained:
    """A model under FSDP.

    `shard` GPUs share its parameters, `sequence_parallel` of them one sequence. `tokens` and `forward_tokens` are those
    of one micro batch on one GPU, with gradient and without. `logit_bytes` are bytes a logit: (in the loss, without gradient).
    `reshards`: layers are given back after their forward pass. `whole_gradients`: they are reduced once a mini batch.
    `dense_mask`: attention takes a mask over pairs of tokens. `row` is the length rows are padded to, 0 if they are packed.
    """

    name: str
    shape: Shape
    shard: int
    tokens: int
    forward_tokens: int
    logit_bytes: tuple[float, float] = (2, 2)
    sequence_parallel: int = 1
    lora_rank: int = 0
    master_bytes: int = 4
    compute_bytes: int = 2
    checkpointing: bool = True
    param_offload: bool = False
    optimizer_offload: bool = False
    offload_policy: bool = False
    fsdp2: bool = True
    reshards: bool = True
    whole_gradients: bool = False
    dense_mask: bool = False
    row: int = 0

    @property
    def outer_apart(self) -> bool:
        """Whether embedding and output layer are gathered each for itself: FSDP2, where they are not tied."""
        return self.fsdp2 and not self.shape.tied

    def mask_pairs(self, tokens: int) -> int:
        """Pairs of tokens in the dense attention mask of a micro batch of `tokens`."""
        return tokens * (self.row or tokens) if self.dense_mask else 0

    @property
    def trained_parameters(self) -> int:
        return self.shape.lora_parameters(self.lora_rank) if self.lora_rank else self.shape.parameters


@dataclass(frozen=True)
class Rollout:
    """The vLLM engine that shares the GPUs: `share` of the device is its own while it generates.

    `sends_base`: under LoRA the base weights travel to it, too; `layered_summon`: adapters are gathered layer by layer.
    """

    shape: Shape
    tensor_parallel: int
    share: float
    sequence: int
    max_num_seqs: int = 256
    batched_tokens: int = 8192
    item: int = 2
    eager: bool = False
    bucket: float = 2 * GIB
    sends_base: bool = False
    layered_summon: bool = False
    keeps_weights: bool = False


@dataclass(frozen=True)
class Job:
    """One launch on one kind of GPU; memory in bytes."""

    gpus: int
    gpus_per_node: int
    memory: float
    host_memory: float
    models: tuple[Trained, ...]
    rollout: Rollout | None = None
    reference: Shape | None = None
    saves_model: bool = False


def of_config(stage: str, config: DictConfig, shape: Shape, facts: Any, fill: float = 1.0) -> Job:
    """The job that VeRL's `config` asks for on the machine of `facts` (a node of conf/hardware/).

    `fill` is the length of a sequence as a share of the longest: 1 for the worst case.
    """
    nodes, per_node = config.trainer.nnodes, config.trainer.n_gpus_per_node
    common = {"gpus": nodes * per_node, "gpus_per_node": per_node, "memory": (facts.memory_gb or 0) * GIB,
              "host_memory": (facts.host_memory_gb or 0) * GIB}  # fmt: skip
    if stage == "sft":
        saves = _saves_model(config.checkpoint)
        return Job(models=(_sft_model(config, shape, nodes * per_node, fill),), saves_model=saves, **common)
    actor = config.actor_rollout_ref.actor
    models = [_actor(config, shape, nodes * per_node, fill)]
    if uses_critic(config):
        models.append(_critic(config, shape, nodes * per_node, fill))
    lora = config.actor_rollout_ref.model.lora_rank > 0
    needs_reference = not lora and (actor.use_kl_loss or config.algorithm.use_kl_in_reward)
    return Job(models=tuple(models), rollout=_rollout(config, shape, lora), saves_model=_saves_model(actor.checkpoint),
               reference=shape if needs_reference else None, **common)  # fmt: skip


def _saves_model(checkpoint: DictConfig) -> bool:
    return "hf_model" in (checkpoint.save_contents or [])


def uses_critic(config: DictConfig) -> bool:
    """Whether VeRL will train a critic: asked for, or needed by GAE (verl.trainer.ppo.utils.need_critic)."""
    asked = config.critic.enable
    return bool(asked) if asked is not None else config.algorithm.adv_estimator == "gae"


def micro_tokens(budget: int | None, micro: int | None, sequences: int, length: int, fill: float, split: int) -> int:
    """Tokens of one micro batch on one GPU, sequences split over `split` GPUs.

    A token budget (VeRL's dynamic batches) is filled as far as there are `sequences`; else `micro` sequences are.
    One sequence must always pass.
    """
    longest = -(-int(length * fill) // split)
    if budget is not None:
        return max(min(budget, int(sequences * length * fill / split)), longest)
    return max(int((micro or 1) * length * fill / split), longest)


def _sft_model(config: DictConfig, shape: Shape, gpus: int, fill: float) -> Trained:
    data, split = config.data, sequence_parallel_size("sft", config)
    budget = data.max_token_len_per_gpu if data.use_dynamic_bsz else None
    rows = data.train_batch_size * split // gpus
    tokens = micro_tokens(budget, data.micro_batch_size_per_gpu, rows, data.max_length, fill, split)
    several = rows * data.max_length * fill / split > tokens
    return Trained("model", shape, tokens=tokens, forward_tokens=tokens, lora_rank=config.model.lora_rank,
                   checkpointing=config.model.enable_gradient_checkpointing, sequence_parallel=split,
                   logit_bytes=logit_bytes(config.engine, config.model, 0, entropy=False),
                   **_engine(config.engine, config.engine.strategy, gpus, several),
                   **_mask(config.model, data.max_length))  # fmt: skip


def _actor(config: DictConfig, shape: Shape, gpus: int, fill: float) -> Trained:
    actor, rollout, model = (
        config.actor_rollout_ref.actor,
        config.actor_rollout_ref.rollout,
        config.actor_rollout_ref.model,
    )
    split, length = (
        sequence_parallel_size("rl", config),
        config.data.max_prompt_length + config.data.max_response_length,
    )
    budget = actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else None
    sequences = actor.ppo_mini_batch_size * rollout.n * split // gpus
    forward = rollout.log_prob_max_token_len_per_gpu if rollout.log_prob_use_dynamic_bsz else None
    batch = config.data.train_batch_size * rollout.n * split // gpus
    tokens = micro_tokens(budget, actor.ppo_micro_batch_size_per_gpu, sequences, length, fill, split)
    in_loss = actor.entropy_coeff or float(actor.calculate_entropy)
    return Trained(
        "actor", shape, sequence_parallel=split, lora_rank=model.lora_rank, tokens=tokens,
        forward_tokens=micro_tokens(forward, rollout.log_prob_micro_batch_size_per_gpu, batch, length, fill, split),
        checkpointing=model.enable_gradient_checkpointing,
        logit_bytes=logit_bytes(actor.fsdp_config, model, in_loss, temperature=rollout.temperature),
        **_engine(actor.fsdp_config, actor.strategy, gpus, sequences * length * fill / split > tokens),
        **_mask(model, length),
    )  # fmt: skip


def _critic(config: DictConfig, shape: Shape, gpus: int, fill: float) -> Trained:
    critic, split = config.critic, critic_sequence_parallel_size(config)
    length = config.data.max_prompt_length + config.data.max_response_length
    budget = critic.ppo_max_token_len_per_gpu if critic.use_dynamic_bsz else None
    sequences = critic.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n * split // gpus
    tokens = micro_tokens(budget, critic.ppo_micro_batch_size_per_gpu, sequences, length, fill, split)
    return Trained("critic", shape, tokens=tokens, forward_tokens=tokens, logit_bytes=(0, 0), sequence_parallel=split,
                   checkpointing=critic.model.enable_gradient_checkpointing, lora_rank=critic.model.lora_rank,
                   **_engine(critic.fsdp, critic.strategy, gpus, sequences * length * fill / split > tokens),
                   **_mask(critic.model, length))  # fmt: skip


def _engine(engine: DictConfig, strategy: str, gpus: int, several: bool) -> dict[str, Any]:
    """What an FSDP node of VeRL says about memory; `fsdp_size` -1 shares the parameters over all GPUs.

    The strategy is that of the role, which VeRL copies into its engine; `several`: a mini batch has several micro batches.
    """
    precision = engine.get("mixed_precision") or {}
    return {
        "shard": gpus if engine.fsdp_size < 1 else min(engine.fsdp_size, gpus),
        "master_bytes": BYTES.get(str(engine.model_dtype), 4),
        "compute_bytes": BYTES.get(str(precision.get("param_dtype", "bf16")), 2),
        "param_offload": bool(engine.param_offload),
        "optimizer_offload": bool(engine.optimizer_offload),
        "offload_policy": bool(engine.offload_policy) and strategy == "fsdp2",
        "fsdp2": strategy == "fsdp2",
        "reshards": bool(engine.reshard_after_forward),
        "whole_gradients": several and bool(engine.get("use_no_sync_for_gradient_accumulation")),
    }


def _mask(model: DictConfig, length: int) -> dict[str, Any]:
    """Whether attention takes a dense mask: PyTorch's own (sdpa) does for packed rows and for padded ones."""
    kernel = OmegaConf.select(model, "override_config.attn_implementation")
    return {"dense_mask": kernel == "sdpa", "row": 0 if model.get("use_remove_padding", True) else length}


def logit_bytes(engine: DictConfig, model: DictConfig, in_loss: float, entropy: bool = True,
                temperature: float = 1.0) -> tuple[float, float]:  # fmt: skip
    """Bytes that one logit takes at the peak: in the loss and its gradient, and in the pass that takes log-probabilities.

    bf16 logits are 2; flash-attn's cross entropy writes its gradient in their place. Entropy in the loss keeps them and
    adds three bf16 tensors (two gradients and their sum) where it is compiled; where it is not, autocast makes three of
    fp32 (verl.utils.torch_functional.entropy_from_logits). A forward pass that measures entropy needs those three, too,
    unless it is compiled or taken in chunks. A temperature other than 1 divides the logits into a second tensor, and their
    gradient again (`_scale_logits_by_temperature`). Fused kernels never make the logits.
    """
    if model.use_fused_kernels:
        return 0, 0
    item = 4 if BYTES.get(str((engine.get("mixed_precision") or {}).get("param_dtype", "bf16"))) == 4 else 2
    compiled = bool(engine.use_torch_compile)
    cheap = compiled or bool(engine.entropy_from_logits_with_chunking)
    update = item if not in_loss else item + (3 * item if compiled else 12 + 2 * item)
    scaled = item if temperature != 1 else 0
    return update + scaled, (item if cheap or not entropy else item + 12) + scaled


def _rollout(config: DictConfig, shape: Shape, lora: bool) -> Rollout:
    rollout = config.actor_rollout_ref.rollout
    bucket = OmegaConf.select(rollout, "checkpoint_engine.update_weights_bucket_megabytes") or 2048
    longest = config.data.max_prompt_length + config.data.max_response_length
    length = rollout.max_model_len or max(shape.context or 0, longest)  # null: VeRL takes the model's whole context
    return Rollout(shape, rollout.tensor_model_parallel_size, rollout.gpu_memory_utilization, length,
                   max_num_seqs=rollout.max_num_seqs, batched_tokens=rollout.max_num_batched_tokens,
                   item=BYTES.get(str(rollout.dtype), 2), eager=bool(rollout.enforce_eager), bucket=bucket * 2**20,
                   sends_base=lora and _sends_base(config.actor_rollout_ref),
                   layered_summon=bool(rollout.layered_summon), keeps_weights=lora)  # fmt: skip


def _sends_base(node: DictConfig) -> bool:
    """Whether more than adapters travel to vLLM under LoRA: merged weights, or base weights that vLLM did not load itself."""
    merged = OmegaConf.select(node, "model.lora.merge")
    return bool(merged) or "dummy" in str(node.rollout.load_format)
