"""How the work is spread over GPUs, and whether vLLM's limits hold a sequence.

The rules are those of VeRL 0.9.1 (verl.workers.engine_workers, rollout.replica, vllm_async_server, FSDP engine, ulysses)
and of vLLM (SchedulerConfig, attention heads by tensor parallelism).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.preflight import model
from posttrain_verl.problem import Problem, warning

ROLLOUT = "actor_rollout_ref.rollout"
MIB, FP32 = 2**20, 4


def check(composed: Composed) -> list[Problem]:
    """Every rule that the launch breaks."""
    config, facts = composed.verl, model.facts(composed)
    if not all(
        isinstance(config.trainer[key], int) and config.trainer[key] > 0 for key in ("nnodes", "n_gpus_per_node")
    ):
        return []  # the check of the batch says so
    if composed.stage == "sft":
        return [*_sharding("engine", config.engine, config, facts), *_context_of_sft(config, facts)]
    actor = config.actor_rollout_ref.actor
    found = list(_sharding("actor_rollout_ref.actor", actor, config, facts))
    found += _sharding("actor_rollout_ref.actor.fsdp_config", actor.get("fsdp_config", actor), config, facts)
    found += [*_replicas(config, facts), *_vllm(config, facts), *_largest_weight(config, facts), *_asynchronous(config)]
    found += _precision(config.actor_rollout_ref.rollout, composed.posttrain.hardware)
    if uses_critic(config):
        found += _sharding("critic.fsdp", config.critic.get("fsdp", config.critic), config, facts)
    return found + list(_pools(config))


def _world(config: DictConfig) -> int:
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


def _sharding(name: str, part: DictConfig, config: DictConfig, facts: dict[str, Any]) -> Iterator[Problem]:
    world, size, parallel = _world(config), part.get("fsdp_size", -1), part.get("ulysses_sequence_parallel_size", 1)
    if isinstance(size, int) and (size == 0 or (0 < size < world and world % size)):
        yield Problem(f"{name}.fsdp_size={size} does not divide {world} GPUs", f"{name}.fsdp_size=-1 shards over all")
    heads = facts.get("num_attention_heads")
    if heads and isinstance(parallel, int) and parallel > 0 and heads % parallel:
        what = f"{name}.ulysses_sequence_parallel_size={parallel} does not divide the model's {heads} attention heads"
        yield Problem(what, "set it to 1 or a divisor of them")
    keys = facts.get("num_key_value_heads")
    if keys and isinstance(parallel, int) and parallel > 0 and keys % parallel and parallel % keys:
        what = f"{name}.ulysses_sequence_parallel_size={parallel} neither divides the model's {keys} key heads nor is a multiple"
        yield Problem(what, "set it to 1 or a divisor of them")
    packed = name != "actor_rollout_ref.actor" or config.actor_rollout_ref.model.use_remove_padding
    if isinstance(parallel, int) and parallel > 1 and not packed:
        what = f"{name}.ulysses_sequence_parallel_size={parallel} needs packed rows"
        yield Problem(what, "actor_rollout_ref.model.use_remove_padding=true")
    if (
        config.trainer.device == "cpu"
        and part.get("strategy") == "fsdp"
        and name in ("engine", "actor_rollout_ref.actor")
    ):
        yield Problem(f"{name}.strategy=fsdp needs a CUDA device", f"{name}.strategy=fsdp2")


def _replicas(config: DictConfig, facts: dict[str, Any]) -> Iterator[Problem]:
    """A replica of vLLM is tensor x data x pipeline parallel GPUs: part of a node, or whole nodes."""
    rollout, per_node, world = config.actor_rollout_ref.rollout, config.trainer.n_gpus_per_node, _world(config)
    tensor, data = rollout.tensor_model_parallel_size, rollout.data_parallel_size
    replica = tensor * data
    if tensor < 1 or data < 1:
        return
    whole = per_node % replica == 0 if replica <= per_node else replica % per_node == 0
    if not whole or world % replica:
        key = f"{ROLLOUT}.tensor_model_parallel_size"
        what = f"{key}={tensor}" + (f" x data_parallel_size={data}" if data > 1 else "")
        what += f": trainer.n_gpus_per_node={per_node} does not divide by {replica} GPUs a replica"
        what += f" ({world} GPUs in all)" if world != per_node else ""
        yield Problem(what, f"{key}=1 or a divisor of {per_node}")
    experts = rollout.expert_parallel_size or 1
    if experts > 1 and experts != replica:
        what = f"{ROLLOUT}.expert_parallel_size={experts} is not tensor x data parallel = {replica}"
        yield Problem(what, f"{ROLLOUT}.expert_parallel_size={replica}, or 1")
    heads = facts.get("num_attention_heads")
    if heads and heads % tensor:
        yield Problem(f"{ROLLOUT}.tensor_model_parallel_size={tensor} does not divide the model's {heads} attention heads",
                      "set it to a divisor of them")  # fmt: skip


def _vllm(config: DictConfig, facts: dict[str, Any]) -> Iterator[Problem]:
    rollout, data = config.actor_rollout_ref.rollout, config.data
    if not all(isinstance(data[key], int) for key in ("max_prompt_length", "max_response_length")):
        return
    longest, limit = data.max_prompt_length + data.max_response_length, facts.get("max_position_embeddings")
    length = rollout.max_model_len
    words = f"data.max_prompt_length + data.max_response_length = {longest}"
    if length is not None and length < longest:
        yield Problem(f"{ROLLOUT}.max_model_len={length} is less than {words}: vLLM would cut answers short",
                      f"{ROLLOUT}.max_model_len={longest}")  # fmt: skip
    if limit and max(longest, length or 0) > limit:
        what = f"the model's context is {limit} tokens; {words}" + (f", max_model_len={length}" if length else "")
        yield Problem(what, "lower them, or take a model with a longer context")
    batched, window = rollout.max_num_batched_tokens, length or limit or longest
    if not rollout.enable_chunked_prefill and batched < window:
        yield Problem(f"{ROLLOUT}.max_num_batched_tokens={batched} is less than max_model_len={window} without chunked prefill",
                      f"{ROLLOUT}.enable_chunked_prefill=true, or {ROLLOUT}.max_num_batched_tokens={window}")  # fmt: skip
    if batched < rollout.max_num_seqs:
        yield Problem(f"{ROLLOUT}.max_num_batched_tokens={batched} is less than max_num_seqs={rollout.max_num_seqs}",
                      f"{ROLLOUT}.max_num_seqs={batched} or less")  # fmt: skip
    actor_dynamic, dynamic = config.actor_rollout_ref.actor.use_dynamic_bsz, rollout.log_prob_use_dynamic_bsz
    if dynamic != actor_dynamic:  # engine_workers asserts it
        what = f"{ROLLOUT}.log_prob_use_dynamic_bsz={dynamic} and actor.use_dynamic_bsz={actor_dynamic} differ"
        yield Problem(what, f"leave {ROLLOUT}.log_prob_use_dynamic_bsz out")


def _precision(rollout: DictConfig, hardware: DictConfig) -> Iterator[Problem]:
    """vLLM refuses bf16 before compute capability 8.0; fp8 without units for it is only slow."""
    units = hardware.get("dtypes") or ()
    if not hardware.get("memory_gb"):
        return  # no GPU
    if rollout.dtype == "bfloat16" and "bf16" not in units:
        yield Problem(f"{ROLLOUT}.dtype=bfloat16, and the GPUs of hardware={hardware.name} have no bf16",
                      f"GPUs of compute capability 8.0 or later, or {ROLLOUT}.dtype=float16")  # fmt: skip
    if rollout.quantization == "fp8" and "fp8" not in units:
        what = f"{ROLLOUT}.quantization=fp8, and the GPUs of hardware={hardware.name} are not known to multiply in fp8"
        yield warning(what, f"GPUs of compute capability 8.9 or later, or {ROLLOUT}.quantization=null")


def _largest_weight(config: DictConfig, facts: dict[str, Any]) -> Iterator[Problem]:
    """Through shared memory a weight must go in one piece; CUDA sends one that is too large by itself (VeRL 0.9.1)."""
    if config.trainer.device != "cpu" or config.actor_rollout_ref.model.lora_rank > 0:
        return
    key = f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes"
    bucket, largest = OmegaConf.select(config, key), facts.get("vocab_size", 0) * facts.get("hidden_size", 0) * FP32
    if isinstance(bucket, int) and bucket * MIB < largest:
        what = f"{key}={bucket} does not hold the model's embedding of {-(-largest // MIB)} MiB"
        yield Problem(what, f"{key}={-(-largest // MIB)}")


def _context_of_sft(config: DictConfig, facts: dict[str, Any]) -> Iterator[Problem]:
    limit = facts.get("max_position_embeddings")
    if limit and isinstance(config.data.max_length, int) and config.data.max_length > limit:
        yield Problem(f"data.max_length={config.data.max_length} is more than the model's context of {limit} tokens",
                      f"data.max_length={limit} or less")  # fmt: skip


def _asynchronous(config: DictConfig) -> Iterator[Problem]:
    """What PPOTrainerSeparateAsync asserts when it is made."""
    if config.trainer.v1.trainer_mode != "separate_async":
        return
    rollout, steps = config.actor_rollout_ref.rollout, config.trainer.v1.separate_async.parameter_sync_step
    mini, batch = config.actor_rollout_ref.actor.ppo_mini_batch_size, config.data.train_batch_size
    if batch != steps * mini:
        product = f"parameter_sync_step={steps} x ppo_mini_batch_size={mini}"
        what = f"trainer.v1.trainer_mode=separate_async needs data.train_batch_size={batch} to be {product}"
        yield Problem(what, f"data.train_batch_size={steps * mini}")
    if rollout.nnodes < 1:
        what = f"trainer.v1.trainer_mode=separate_async needs GPUs of its own for the rollout, and {ROLLOUT}.nnodes=0"
        yield Problem(what, f"{ROLLOUT}.nnodes=1")
    if rollout.checkpoint_engine.backend == "naive":
        what = (
            f"trainer.v1.trainer_mode=separate_async cannot send weights with {ROLLOUT}.checkpoint_engine.backend=naive"
        )
        yield Problem(what, f"{ROLLOUT}.checkpoint_engine.backend=nccl")


def _pools(config: DictConfig) -> Iterator[Problem]:
    """Models with GPUs of their own need some (PPOTrainer asks for more than 0)."""
    reward = config.reward.reward_model
    wanted = {"distillation": config.distillation if config.distillation.enabled else None,
              "reward.reward_model": reward if reward.enable_resource_pool else None}  # fmt: skip
    for name, part in wanted.items():
        if part is not None and (part.nnodes < 1 or part.n_gpus_per_node < 1):
            yield Problem(f"{name} asks for GPUs of its own and has none", f"{name}.nnodes=1 {name}.n_gpus_per_node=1")
    if reward.enable and not reward.model_path:
        yield Problem("reward.reward_model.enable=true without a model", "give reward.reward_model.model_path")
