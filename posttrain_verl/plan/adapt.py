"""What the machine changes in a composed config, each change with its reason.

First the settings of its file in conf/hardware/ are applied: `choices` are options of our groups, `settings` are by stage,
and `sizes` are for recipes that did not choose their own. Then the memory model judges settings in the order in which one
would rather have them, the recipe's own first, and takes the first that fits. Full fine-tuning comes before LoRA, a smaller
token budget and offloading before splitting sequences. A key that the user set on the command line never changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.base_models.shape import known_shape
from posttrain_verl.machine.devices import Machine
from posttrain_verl.plan.memory import PHASES, ROLLOUT, SYNC, Table, memory_table
from posttrain_verl.verl.composed import Change
from posttrain_verl.verl.job import GIB, TYPICAL_FILL, Job
from posttrain_verl.verl.renamed import current_key
from posttrain_verl.verl.settings import Rollout
from posttrain_verl.verl.stage import Settings, stage_named
from reward_fns.code import cores

LORA_RANK = 32  # VeRL docs/algo/baseline.md, GRPO-LoRA from 0.5B to 72B
SMALL_BUDGET = 8192  # tokens; below it the GPU starves, so offloading is tried first
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
FEWEST_SEQUENCES = 8  # of full length that vLLM should hold at once
SPLITS = (1, 2, 4, 8)
SPARE = 0.03  # of the device, in the phases in which the plan counts no fragmentation


@dataclass(frozen=True)
class Candidate:
    """What may change: LoRA rank (0: full), GPUs a sequence, offloads, tokens of a micro batch
    on a GPU, tensor parallelism and memory share of the rollout engine, bytes of a stored weight."""

    lora: int
    split: int
    param_offload: bool
    optimizer_offload: bool
    tokens: int
    tensor_parallel: int = 1
    share: float = 0.0
    master: int = 4

    @property
    def offloads(self) -> tuple[bool, bool]:
        return self.param_offload, self.optimizer_offload


def current_candidate(job: Job) -> Candidate:
    """The candidate of a job as it stands."""
    model, rollout = job.models[0], job.rollout
    return Candidate(model.lora_rank, model.sequence_parallel, model.param_offload, model.optimizer_offload,
                   max(model.tokens, model.forward_tokens), rollout.tensor_parallel if rollout else 1,
                   rollout.share if rollout else 0.0, model.master_bytes)  # fmt: skip


def vary_job(job: Job, candidate: Candidate) -> Job:
    """The same job with another candidate."""
    rollout = job.rollout and replace(job.rollout, tensor_parallel=candidate.tensor_parallel, share=candidate.share,
                                      keeps_weights=candidate.lora > 0)  # fmt: skip
    models = []
    for model in job.models:
        if not model.outputs_values:
            model = replace(model, master_bytes=candidate.master, lora_rank=candidate.lora)
        tokens, forward_tokens = min(model.tokens, candidate.tokens), min(model.forward_tokens, candidate.tokens)
        model = replace(model, sequence_parallel=candidate.split, tokens=tokens, forward_tokens=forward_tokens)
        models.append(
            replace(model, param_offload=candidate.param_offload, optimizer_offload=candidate.optimizer_offload)
        )
    return replace(job, models=tuple(models), rollout=rollout, reference=None if candidate.lora else job.reference)


def search_candidate(job: Job, longest: int, fixed: frozenset[str] = frozenset()) -> tuple[Candidate, Table] | None:
    """The first candidate that fits, with its memory; None if none does.

    `longest` is the longest sequence in tokens; `fixed` names the fields of `Candidate` that stay as they are.
    """
    trains: dict[Candidate, bool] = {}
    for candidate in list_candidates(job, longest, fixed):
        alone = replace(candidate, tensor_parallel=1, share=0.0)
        if alone not in trains:
            memory = memory_table(vary_job(job, candidate))
            trains[alone] = all(memory.total(phase) <= job.memory for phase in PHASES if phase not in (ROLLOUT, SYNC))
        if trains[alone]:
            memory = memory_table(vary_job(job, candidate))
            holds_enough = memory.kv_sequences is None or memory.kv_sequences >= FEWEST_SEQUENCES
            if memory.fits and holds_enough and leaves_room(memory):
                return candidate, memory
    return None


def leaves_room(memory: Table) -> bool:
    """Whether what the planner chooses leaves vLLM a rest of the device, for what no formula counts: reports of colocated
    GPUs name 3.0 and 7.5 GB outside torch (verl #2828, rllm #93)."""
    room = memory.job.memory * (1 - SPARE)
    return all(memory.total(phase) <= room for phase in (ROLLOUT, SYNC))


def list_candidates(job: Job, longest: int, fixed: frozenset[str]) -> Iterator[Candidate]:
    """Settings in the order of preference."""
    now = current_candidate(job)
    splits = [now.split]
    if "split" not in fixed:  # GPUs that may share one sequence (Ulysses) divide the heads and the GPUs
        heads = job.models[0].shape.heads
        possible = [n for n in SPLITS if job.gpus % n == 0 and heads % n == 0 and n <= job.gpus_per_node]
        splits = [*splits, *(n for n in possible if n > now.split)] if now.split in possible else possible[::-1]
    for (lora, master), split in product(_lora_modes(now, fixed), splits):
        for offloads, tokens in _frugal_steps(now, -(-longest // split), fixed):
            for engine in _engine_settings(job, now, fixed):
                yield Candidate(lora, split, *offloads, tokens, *engine, master)


def _lora_modes(now: Candidate, fixed: frozenset[str]) -> list[tuple[int, int]]:
    """(LoRA rank, bytes of a stored weight): full, then LoRA, then LoRA on frozen weights in bf16.

    Full fine-tuning keeps fp32: at its learning rates bf16 weights lose their updates.
    """
    ranks = [now.lora] if now.lora or "lora" in fixed else [0, LORA_RANK]
    modes = [(rank, now.master) for rank in ranks]
    return [*modes, (ranks[-1], 2)] if ranks[-1] and now.master > 2 and "master" not in fixed else modes


def _frugal_steps(now: Candidate, floor: int, fixed: frozenset[str]) -> list[tuple[tuple[bool, bool], int]]:
    """(offloads, tokens), dearest last: a budget that starves the GPU costs more than an offload."""
    free = [name not in fixed for name in ("param_offload", "optimizer_offload")]
    offloads = [now.offloads]
    for pair in ((False, True), (True, True)):  # which keeps what is offloaded now, and touches nothing fixed
        kept = all(new == old or (new and can) for new, old, can in zip(pair, now.offloads, free, strict=True))
        if kept and pair != now.offloads:
            offloads.append(pair)
    tokens = [now.tokens]
    while "tokens" not in fixed and tokens[-1] > floor:
        tokens.append(max(tokens[-1] // 2, floor))
    pairs = list(product(offloads, tokens))
    return sorted(pairs, key=lambda pair: (pair[1] < min(SMALL_BUDGET, now.tokens), offloads.index(pair[0]), -pair[1]))


def _engine_settings(job: Job, now: Candidate, fixed: frozenset[str]) -> list[tuple[int, float]]:
    """(tensor parallelism, memory share) of the rollout engine."""
    if job.rollout is None:
        return [(1, 0.0)]
    splits, shares, heads = [now.tensor_parallel], [now.share], job.models[0].shape.heads
    if "tensor_parallel" not in fixed:
        possible = [n for n in SPLITS if job.gpus_per_node % n == 0 and heads % n == 0]
        splits = sorted(possible, key=lambda n: (n != now.tensor_parallel, n))
    if "share" not in fixed:
        shares += [*(s for s in SHARES if s < now.share), *sorted(s for s in SHARES if s > now.share)]
    return list(product(splits, shares))


def smallest_memory(job: Job, longest: int) -> Table:
    """The memory of the most frugal candidate there is, whatever was asked for: what a machine must have at least."""
    tables = (memory_table(vary_job(job, candidate)) for candidate in list_candidates(job, longest, frozenset()))
    return min(tables, key=lambda memory: memory.peak[1])


DEFAULT_HARDWARE = "8xh100"  # the machine of a recipe that does not name another in posttrain.sized_for
SMALLEST_BUCKET, UNKNOWN_BUCKET = 16, 256  # MiB
Wanted = list[tuple[str, Any, str]]  # keys, the values that they should have, and why


def describe_machine(node: DictConfig, found: Machine) -> None:
    """Write what was found into the node of conf/hardware/auto.yaml, which is empty."""
    seen = found.facts
    if found.name == "cpu":
        node.host_memory_gb = round(seen.host_memory_gb, 1)
        return
    count = seen.torch or len(seen.devices)
    node.update(name=f"{count}x{seen.memory_gb:.0f}gb", n_gpus_per_node=count, nnodes=1,
                memory_gb=round(seen.memory_gb, 1), host_memory_gb=round(seen.host_memory_gb, 1),
                interconnect=seen.interconnect, dtypes=seen.described[0].dtypes)  # fmt: skip


def choose_options(node: DictConfig, chosen: DictConfig, user: set[str]) -> list[Change]:
    """The options of our groups that the hardware replaces: those it cannot carry and the user did not name.

    Of several entries of a group the first that fits counts.
    """
    changes: dict[str, Change] = {}
    for entry in node.choices:
        old = chosen[entry.group]
        fits = old in entry["of"] if "of" in entry else old not in entry["keep"]
        if fits and entry.group not in user:
            changes.setdefault(entry.group, Change(entry.group, old, entry.value, entry.why))
    return list(changes.values())


def apply_hardware(tree: DictConfig, user_keys: frozenset[str], found: Machine | None) -> list[Change]:
    """Set in `tree` what `tree.posttrain.hardware` asks for, and return what changed."""
    node, stage = tree.posttrain.hardware, stage_named(tree.posttrain.stage)
    settings, wanted = stage.settings(tree), Wanted()
    lists = [node.settings] if tree.posttrain.sized_for == node.name else [node.settings, node.sizes]
    for entry in (entry for each in lists for part in stage.hardware_lists(settings) for entry in each.get(part) or ()):
        key = current_key(entry.key)
        if "value" in entry:
            wanted.append((key, entry.value, entry.why))
        elif (old := OmegaConf.select(tree, key)) is not None:  # a value that the recipe does not have is not lowered
            wanted.append((key, min(old, entry.at_most) if isinstance(old, int) else entry.at_most, entry.why))
    reason = found.reason if found else f"hardware={node.name}"
    wanted += [
        (settings.key("gpus_per_node"), node.n_gpus_per_node, reason),
        (settings.key("nodes_count"), node.nnodes, reason),
    ]
    if found and found.name != "cpu" and (reward := settings.reward):
        count = cores.allotted_cores()  # that run the programs of the reward workers; each runs one at least
        if isinstance(reward.reward_workers, int) and reward.reward_workers > count:
            wanted.append((reward.key("reward_workers"), count, f"this machine has {count} cores"))
    return put_changes(tree, wanted, user_keys)


def put_changes(tree: DictConfig, wanted: Wanted, user_keys: frozenset[str]) -> list[Change]:
    """Set each (key, value, why) that the user did not set, and return what changed."""
    changes = []
    for key, value, why in wanted:
        old = OmegaConf.select(tree, key)
        if old == value or any(keys_overlap(key, user_key) for user_key in user_keys):
            continue
        OmegaConf.update(tree, key, value, force_add=True)
        plain = [OmegaConf.to_container(each) if OmegaConf.is_config(each) else each for each in (old, value)]
        changes.append(Change(key, plain[0], plain[1], why))
    return changes


def keys_overlap(one: str, other: str) -> bool:
    """Whether two keys are the same, or one lies below the other."""
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")


def fit_memory(tree: DictConfig, user_keys: frozenset[str], options: dict[str, str]) -> list[Change]:
    """Change what must change for the machine of `tree`; nothing on the machine that the recipe was written for."""
    settings, hardware = stage_named(tree.posttrain.stage).settings(tree), tree.posttrain.hardware
    if hardware.name == "cpu":
        return put_changes(tree, _weight_bucket(settings, tree.posttrain.base_model), user_keys)
    other_machine = hardware.name != (tree.posttrain.sized_for or DEFAULT_HARDWARE)
    if hardware.memory_gb is None or not (other_machine or "base_model" in options) or not settings.uses_fsdp:
        return []
    shape = known_shape(str(settings.model.path), tree.posttrain.base_model)
    if shape is None:
        return []
    fields = [
        *keys_of(settings).items(),
        *(("tokens", key) for key in settings.model.keys("token_budget", "micro_batch_size")),
    ]
    fixed = {field for field, key in fields if any(keys_overlap(key, user) for user in user_keys)}
    job = settings.job(shape, hardware)
    found = search_candidate(job, settings.longest_group, frozenset(fixed))
    if found is None:
        return []  # preflight says how much is missing
    candidate, memory = found
    return put_changes(tree, list(_wanted_changes(settings, job, candidate, memory)), user_keys)


def keys_of(settings: Settings) -> dict[str, str]:
    """The key of VeRL that says what a field of `Candidate` says."""
    names = {"lora": "lora_rank", "split": "sequence_parallel", "param_offload": "param_offload",
             "optimizer_offload": "optimizer_offload", "master": "master_dtype"}  # fmt: skip
    keys = {field: settings.model.key(name) for field, name in names.items()}
    if settings.rollout:
        rollout = settings.rollout
        keys |= {"tensor_parallel": rollout.key("tensor_parallel"), "share": rollout.key("memory_share")}
    return keys


def _weight_bucket(settings: Settings, base_model: DictConfig) -> Wanted:
    """The buffer for weights, which lies in /dev/shm on the CPU: as small as the largest allows (a container has 64 MB)."""
    if settings.rollout is None:
        return []
    key, shape = settings.rollout.key("bucket_megabytes"), known_shape(str(settings.model.path), base_model)
    if shape is None:
        return [(key, UNKNOWN_BUCKET, "weights travel through shared memory, and the largest is not known")]
    largest = shape.vocab * shape.hidden * 4 / 2**20
    size = max(SMALLEST_BUCKET, 2 ** math.ceil(math.log2(largest)))
    return [(key, size, f"weights travel through shared memory, and the largest has {largest:.1f} MiB")]


def _wanted_changes(
    settings: Settings, job: Job, candidate: Candidate, memory: Table
) -> Iterator[tuple[str, Any, str]]:
    now, before = current_candidate(job), memory_table(job)
    phase, peak = before.peak
    why = f"{phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB as the recipe stands"
    if not before.fits and peak <= job.memory:
        why = f"vLLM would hold {before.kv_sequences or 0:.1f} sequences of full length as the recipe stands"
    keys = keys_of(settings)
    if candidate.lora != now.lora:
        frugal = replace(candidate, lora=0, master=4, param_offload=True, optimizer_offload=True)
        full = memory_table(vary_job(job, frugal))
        yield from _lora_changes(settings, candidate.lora, f"full fine-tuning needs {full.peak[1] / GIB:.1f} of "
                         f"{job.memory / GIB:.1f} GB a GPU, everything offloaded")  # fmt: skip
    if candidate.split != now.split:
        yield keys["split"], candidate.split, f"{candidate.split} GPUs share a sequence: {why}"
    for name, waits in (("optimizer_offload", "the optimizer waits"), ("param_offload", "the weights wait")):
        if getattr(candidate, name) != getattr(now, name):
            for model in settings.models:
                yield model.key(name), True, f"{waits} on the host: {why}"
    if candidate.master != now.master:
        reason = f"frozen weights of fp32 do not fit {job.memory / GIB:.1f} GB; adapters are bf16, too"
        yield keys["master"], "bf16", reason
    ranks = settings.world_size // candidate.split
    most = max(candidate.tokens * candidate.split // settings.longest_group, 1)
    for view, sequences in settings.micro_batches:
        key, each, size = view.key("micro_batch_size"), sequences // ranks, view.micro_batch_size
        if candidate.tokens != now.tokens:
            reason = f"micro batches of {candidate.tokens} tokens a GPU: {why}"
            if view.dynamic_batches:
                yield view.key("token_budget"), candidate.tokens, reason
            else:
                yield key, _largest_divisor(each, most), reason
        elif not view.dynamic_batches and size and each and each % size:
            yield key, _largest_divisor(each, size), f"divides the {each} sequences of a GPU"
    if settings.rollout:
        yield from _engine_changes(settings.rollout, job, now, candidate, memory, why)


def _lora_changes(settings: Settings, rank: int, why: str) -> Wanted:
    model = settings.model
    wanted = [(model.key("lora_rank"), rank, why), (model.key("lora_alpha"), rank, "as the rank, which leaves the scale at 1"),
              (model.key("lora_targets"), "all-linear", "adapters on every linear layer"),
              (model.key("lr"), float(f"{10 * float(model.lr):.3g}"), "adapters learn at about ten times the rate")]  # fmt: skip
    if settings.rollout:
        rollout = settings.rollout
        wanted += [(rollout.key("load_format"), "safetensors", "vLLM loads the base once, then adapters travel"),
                   (rollout.key("layered_summon"), True, "adapters are gathered layer by layer")]  # fmt: skip
    return wanted


def _largest_divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is at most `most`."""
    return max((size for size in range(1, max(min(total, most), 1) + 1) if total % size == 0), default=1)


def _engine_changes(
    rollout: Rollout, job: Job, now: Candidate, candidate: Candidate, memory: Table, why: str
) -> Wanted:
    wanted: Wanted = []
    if candidate.tensor_parallel != now.tensor_parallel:
        split, heads, reason = now.tensor_parallel, job.models[0].shape.heads, why
        if job.gpus_per_node % split:
            reason = f"{split} do not divide the {job.gpus_per_node} GPUs of a node"
        elif heads % split:
            reason = f"{split} do not divide {heads} attention heads"
        wanted.append((rollout.key("tensor_parallel"), candidate.tensor_parallel, reason))
    holds = memory.kv_sequences or 0
    if candidate.share != now.share:
        tried = memory_table(vary_job(job, replace(candidate, share=now.share)))
        phase, peak = tried.peak
        reason = f"vLLM would hold {tried.kv_sequences or 0:.0f} sequences of full length with {now.share:g}"
        if peak > job.memory or not leaves_room(tried):
            reason = f"{phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB with {now.share:g}, and 3 % stay free"
        reason += f"; now the cache holds {holds:.0f} sequences"
        wanted.append((rollout.key("memory_share"), candidate.share, reason))
    at_once = max(16, int(holds / TYPICAL_FILL))
    if at_once < rollout.max_num_seqs:
        reason = f"the cache holds {holds:.0f} sequences of full length, about {at_once} as they come"
        wanted.append((rollout.key("max_num_seqs"), at_once, reason))
    return wanted
