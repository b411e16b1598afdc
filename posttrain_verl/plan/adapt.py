"""From a composed tree to the changes that make it fit its machine, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.plan import job as jobs
from posttrain_verl.plan.choice import Setting, current, leaves_room, search, vary
from posttrain_verl.plan.hardware import Change, overlap, put
from posttrain_verl.plan.job import GIB, Job
from posttrain_verl.plan.known import shape_of
from posttrain_verl.plan.memory import Table, table
from posttrain_verl.plan.readable import is_readable
from posttrain_verl.verl import parallelism

HOME = "8xh100"  # the machine of the recipes that name no other in posttrain.sized_for
Wanted = list[tuple[str, Any, str]]

SCORERS = ("actor_rollout_ref.rollout", "actor_rollout_ref.ref")  # who takes log-probabilities
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
# The keys of VeRL that say what a field of Setting says, by stage.
KEYS = {
    "rl": {
        "lora": f"{MODEL}.lora_rank",
        "split": parallelism.ACTOR_KEY,
        "param_offload": f"{ACTOR}.fsdp_config.param_offload",
        "optimizer_offload": f"{ACTOR}.fsdp_config.optimizer_offload",
        "master": f"{ACTOR}.fsdp_config.model_dtype",
        "tensor_parallel": f"{ROLLOUT}.tensor_model_parallel_size",
        "share": f"{ROLLOUT}.gpu_memory_utilization",
    },
    "sft": {
        "lora": "model.lora_rank",
        "split": parallelism.SFT_KEY,
        "param_offload": "engine.param_offload",
        "optimizer_offload": "engine.optimizer_offload",
        "master": "engine.model_dtype",
    },
}
BUCKET = f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes"
SMALLEST_BUCKET, UNKNOWN_BUCKET = 16, 256  # MiB
TOKEN_KEYS = {
    "rl": (f"{ACTOR}.ppo_max_token_len_per_gpu", f"{ACTOR}.ppo_micro_batch_size_per_gpu"),
    "sft": ("data.max_token_len_per_gpu", "data.micro_batch_size_per_gpu"),
}


def apply(tree: DictConfig, user_keys: frozenset[str], options: dict[str, str]) -> list[Change]:
    """Change what must change for the machine of `tree`; nothing on the machine that the recipe was written for."""
    if tree.posttrain.hardware.name == "cpu":
        return put(tree, _bucket(tree), user_keys)
    if not _asked(tree, options) or not of_verl(tree.posttrain.stage, tree):
        return []
    stage, shape = tree.posttrain.stage, shape_of(model_path(tree), tree.posttrain.base_model)
    if shape is None:
        return []
    job = jobs.of_config(stage, tree, shape, tree.posttrain.hardware)
    found = search(job, longest(stage, tree), _fixed(stage, user_keys))
    if found is None:
        return []  # preflight says how much is missing
    setting, memory = found
    return put(tree, list(_wanted(tree, stage, job, setting, memory)), user_keys)


def _bucket(tree: DictConfig) -> Wanted:
    """The buffer for weights, which lies in /dev/shm on the CPU: as small as the largest allows (a container has 64 MB)."""
    if tree.posttrain.stage == "sft":
        return []
    shape = shape_of(model_path(tree), tree.posttrain.base_model)
    if shape is None:
        return [(BUCKET, UNKNOWN_BUCKET, "weights travel through shared memory, and the largest is not known")]
    largest = shape.vocab * shape.hidden * 4 / 2**20
    size = max(SMALLEST_BUCKET, 2 ** math.ceil(math.log2(largest)))
    return [(BUCKET, size, f"weights travel through shared memory, and the largest has {largest:.1f} MiB")]


def of_verl(stage: str, tree: DictConfig) -> bool:
    """Whether the memory model covers the engine: FSDP with readable numbers."""
    if not is_readable(stage, tree):
        return False
    return (tree.engine if stage == "sft" else tree.actor_rollout_ref.actor).strategy in ("fsdp", "fsdp2")


def model_path(tree: DictConfig) -> str:
    return str(tree.model.path if tree.posttrain.stage == "sft" else tree.actor_rollout_ref.model.path)


def longest(stage: str, config: DictConfig) -> int:
    """The longest sequence in tokens."""
    data = config.data
    return int(data.max_length if stage == "sft" else data.max_prompt_length + data.max_response_length)


def _asked(tree: DictConfig, options: dict[str, str]) -> bool:
    """Whether this is another machine or another model than the recipe was written for."""
    node = tree.posttrain.hardware
    return node.memory_gb is not None and (node.name != (tree.posttrain.sized_for or HOME) or "base_model" in options)


def _fixed(stage: str, user_keys: frozenset[str]) -> frozenset[str]:
    fields = {name for name, key in KEYS[stage].items() if any(overlap(key, user) for user in user_keys)}
    tokens = any(overlap(key, user) for key in TOKEN_KEYS[stage] for user in user_keys)
    return frozenset(fields | ({"tokens"} if tokens else set()))


def _wanted(tree: DictConfig, stage: str, job: Job, setting: Setting, memory: Table) -> Iterator[tuple[str, Any, str]]:
    now, before = current(job), table(job)
    phase, peak = before.peak
    why = f"{phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB as the recipe stands"
    if not before.fits and peak <= job.memory:
        why = f"vLLM would hold {before.kv_sequences or 0:.1f} sequences of full length as the recipe stands"
    keys = KEYS[stage]
    if setting.lora != now.lora:
        full = table(vary(job, replace(setting, lora=0, master=4, param_offload=True, optimizer_offload=True)))
        yield from _lora(tree, stage, setting.lora, f"full fine-tuning needs {full.peak[1] / GIB:.1f} of "
                         f"{job.memory / GIB:.1f} GB a GPU, everything offloaded")  # fmt: skip
    for name, reason in (
        ("split", f"{setting.split} GPUs share a sequence: {why}"),
        ("optimizer_offload", f"the optimizer waits on the host: {why}"),
        ("param_offload", f"the weights wait on the host: {why}"),
    ):
        if getattr(setting, name) != getattr(now, name):
            yield keys[name], getattr(setting, name), reason
            if stage == "rl" and "offload" in name and len(job.models) > 1:
                yield f"critic.fsdp.{name}", True, reason
    if setting.master != now.master:
        yield (
            keys["master"],
            "bf16",
            f"frozen weights of fp32 do not fit {job.memory / GIB:.1f} GB; adapters are bf16, too",
        )
    if setting.tokens != now.tokens:
        yield from _tokens(tree, stage, setting, f"micro batches of {setting.tokens} tokens a GPU: {why}")
    else:
        yield from _uneven(tree, stage, setting.split)
    if stage == "rl":
        yield from _engine(tree, job, now, setting, memory, why)


def _lora(tree: DictConfig, stage: str, rank: int, why: str) -> Wanted:
    model, optim = ("model", "optim") if stage == "sft" else (MODEL, f"{ACTOR}.optim")
    rate = float(OmegaConf.select(tree, f"{optim}.lr"))
    wanted = [(f"{model}.lora_rank", rank, why), (f"{model}.lora_alpha", rank, "as the rank, which leaves the scale at 1"),
              (f"{model}.target_modules", "all-linear", "adapters on every linear layer"),
              (f"{optim}.lr", float(f"{10 * rate:.3g}"), "adapters learn at about ten times the rate")]  # fmt: skip
    if stage == "rl":
        wanted += [(f"{ROLLOUT}.load_format", "safetensors", "vLLM loads the base once, then adapters travel"),
                   (f"{ROLLOUT}.layered_summon", True, "adapters are gathered layer by layer")]  # fmt: skip
    return wanted


def _tokens(tree: DictConfig, stage: str, setting: Setting, why: str) -> Wanted:
    """The token budgets, and where batches are not dynamic the micro batch sizes that stay under them."""
    most = max(setting.tokens * setting.split // longest(stage, tree), 1)
    wanted: Wanted = [(key, setting.tokens, why) for key in _budgets(tree, stage)]
    return wanted + [(key, _divisor(total, most), why) for key, total in _micros(tree, stage, setting.split)]


def _uneven(tree: DictConfig, stage: str, split: int) -> Wanted:
    """Micro batch sizes that do not divide what this number of GPUs leaves to each."""
    sizes = [(key, total, OmegaConf.select(tree, key)) for key, total in _micros(tree, stage, split)]
    return [(key, _divisor(total, size), f"divides the {total} sequences of a GPU")
            for key, total, size in sizes if size and total and total % size]  # fmt: skip


def _budgets(tree: DictConfig, stage: str) -> list[str]:
    """The keys of token budgets that are in force."""
    if stage == "sft":
        return [TOKEN_KEYS["sft"][0]] if tree.data.use_dynamic_bsz else []
    keys = [TOKEN_KEYS["rl"][0]] if tree.actor_rollout_ref.actor.use_dynamic_bsz else []
    keys += [f"{role}.log_prob_max_token_len_per_gpu" for role in SCORERS if _scores_dynamically(tree, role)]
    dynamic_critic = jobs.uses_critic(tree) and tree.critic.use_dynamic_bsz
    return [*keys, "critic.ppo_max_token_len_per_gpu"] if dynamic_critic else keys


def _micros(tree: DictConfig, stage: str, split: int) -> list[tuple[str, int]]:
    """The keys of micro batch sizes that are in force, each with the sequences that a GPU must divide by it."""
    ranks = tree.trainer.nnodes * tree.trainer.n_gpus_per_node // split
    if stage == "sft":
        return [] if tree.data.use_dynamic_bsz else [(TOKEN_KEYS["sft"][1], tree.data.train_batch_size // ranks)]
    actor, n = tree.actor_rollout_ref.actor, tree.actor_rollout_ref.rollout.n
    mini, batch = actor.ppo_mini_batch_size * n // ranks, tree.data.train_batch_size * n // ranks
    keys = [] if actor.use_dynamic_bsz else [(TOKEN_KEYS["rl"][1], mini)]
    keys += [
        (f"{role}.log_prob_micro_batch_size_per_gpu", batch) for role in SCORERS if not _scores_dynamically(tree, role)
    ]
    fixed_critic = jobs.uses_critic(tree) and not tree.critic.use_dynamic_bsz
    return [*keys, ("critic.ppo_micro_batch_size_per_gpu", mini)] if fixed_critic else keys


def _scores_dynamically(tree: DictConfig, role: str) -> bool:
    return bool(OmegaConf.select(tree, f"{role}.log_prob_use_dynamic_bsz"))


def _divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is at most `most`."""
    return max((size for size in range(1, max(min(total, most), 1) + 1) if total % size == 0), default=1)


def _engine(tree: DictConfig, job: Job, now: Setting, setting: Setting, memory: Table, why: str) -> Wanted:
    keys = KEYS["rl"]
    wanted: Wanted = []
    if setting.tensor_parallel != now.tensor_parallel:
        wanted.append(
            (keys["tensor_parallel"], setting.tensor_parallel, _unsplittable(job, now.tensor_parallel) or why)
        )
    holds = memory.kv_sequences or 0
    if setting.share != now.share:
        tried = table(vary(job, replace(setting, share=now.share)))
        phase, peak = tried.peak
        reason = f"vLLM would hold {tried.kv_sequences or 0:.0f} sequences of full length with {now.share:g}"
        if peak > job.memory or not leaves_room(tried):
            reason = f"{phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB with {now.share:g}, and 3 % stay free"
        wanted.append((keys["share"], setting.share, f"{reason}; now the cache holds {holds:.0f} sequences"))
    at_once = max(16, int(holds / jobs.TYPICAL_FILL))
    if at_once < tree.actor_rollout_ref.rollout.max_num_seqs:
        reason = f"the cache holds {holds:.0f} sequences of full length, about {at_once} as they come"
        wanted.append((f"{ROLLOUT}.max_num_seqs", at_once, reason))
    return wanted


def _unsplittable(job: Job, split: int) -> str:
    """Why the engine cannot be split over so many GPUs; nothing if it can."""
    if job.gpus_per_node % split:
        return f"{split} do not divide the {job.gpus_per_node} GPUs of a node"
    heads = job.models[0].shape.heads
    return f"{split} do not divide {heads} attention heads" if heads % split else ""
