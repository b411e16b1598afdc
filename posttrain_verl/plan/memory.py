"""The memory model: what lies on one GPU, and on the host of one node, in each phase of a step.

A step has phases that follow each other on the same GPUs: vLLM generates (`rollout`), log-probabilities are taken
(`log_prob`), models learn (`update`, `critic`), the optimizer steps (`step`), and the new weights go to vLLM (`sync`).
Each line says in which of them it is there. The largest sum over a phase is what the GPU must hold.

GB are 2^30 bytes, as in torch and in VeRL's own perf/max_memory_allocated_gb.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from posttrain_verl.plan import moments
from posttrain_verl.plan.job import GIB, Job, Rollout, Trained
from posttrain_verl.plan.moments import VERL

ROLLOUT, LOG_PROB, UPDATE, CRITIC, STEP, SYNC, HOST = "rollout", "log_prob", "update", "critic", "step", "sync", "host"
RL_PHASES = (ROLLOUT, LOG_PROB, UPDATE, CRITIC, STEP, SYNC)

FRAGMENTATION = (
    0.03  # of the device, lost between blocks of torch's allocator with expandable segments, while models work
)
CONTEXT = 1.0 * GIB  # CUDA context, cuBLAS workspace and NCCL buffers of one process
ASLEEP = 1.0 * GIB  # what a sleeping vLLM keeps: its context and the CUDA graphs
GRAPHS = 1.0 * GIB  # vLLM's CUDA graphs, within its share since vLLM 0.21 (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS)
ENGINE = 0.5 * GIB  # CUDA context and NCCL buffers of vLLM, within its share
REDUCED = 4  # bytes of a gradient while it is reduced: VeRL's mixed_precision.reduce_dtype is fp32
HOST_PROCESS = 4 * GIB  # a worker with torch, VeRL and vLLM imported, one for each GPU

ZERO = "ZeRO, Rajbhandari et al. 2020 (arXiv 1910.02054)"
VLLM = "vLLM docs, Conserving Memory"
RULE = "rule of thumb, not measured: no GPU"


@dataclass(frozen=True)
class Line:
    """One thing in memory: bytes, the formula with its numbers, where the formula comes from, and the phases it is in."""

    name: str
    bytes: float
    formula: str
    source: str
    phases: frozenset[str]

    @property
    def gb(self) -> float:
        return self.bytes / GIB


@dataclass(frozen=True)
class Table:
    """All lines of a job."""

    job: Job
    lines: tuple[Line, ...]

    def total(self, phase: str) -> float:
        """Bytes in one phase on one GPU, or on the host of a node."""
        return sum(line.bytes for line in self.lines if phase in line.phases)

    def line(self, name: str) -> Line:
        """The line of that name."""
        return next(line for line in self.lines if line.name == name)

    @property
    def phases(self) -> list[str]:
        """The phases of this job, in the order of a step; the host is not among them."""
        return [phase for phase in RL_PHASES if any(line.phases == {phase} for line in self.lines)]

    @property
    def peak(self) -> tuple[str, float]:
        """The phase that needs most of a GPU, and its bytes."""
        return max(((phase, self.total(phase)) for phase in self.phases), key=lambda pair: pair[1])

    @property
    def kv_room(self) -> float | None:
        """Bytes for the KV cache of one GPU; None without a rollout engine."""
        return next((line.bytes for line in self.lines if line.name == "vLLM KV cache"), None)

    @property
    def kv_sequences(self) -> float | None:
        """Sequences of full length that the KV cache of one engine holds."""
        rollout, room = self.job.rollout, self.kv_room
        if rollout is None or room is None:
            return None
        each = rollout.shape.kv_bytes(rollout.tensor_parallel, rollout.item) * rollout.sequence
        return max(room, 0) / each

    @property
    def fits(self) -> bool:
        """Whether every phase fits the GPU, vLLM can hold a sequence, and the node holds what is offloaded."""
        enough = self.peak[1] <= self.job.memory and (self.kv_sequences is None or self.kv_sequences >= 1)
        return enough and (not self.job.host_memory or self.total(HOST) <= self.job.host_memory)


def table(job: Job) -> Table:
    """The memory of a job, line by line."""
    phases = _phases(job)
    lines = _overhead(job, phases)
    for model in job.models:
        lines += _model(model, job, phases)
    if job.rollout:
        lines += _rollout(job, job.rollout)
    return Table(job, tuple(line for line in [*lines, *_host(job)] if line.bytes or line.name == "vLLM KV cache"))


def _phases(job: Job) -> tuple[str, ...]:
    if job.rollout is None:
        return (UPDATE, STEP)
    critic = any(model.name == "critic" for model in job.models)
    return tuple(phase for phase in RL_PHASES if critic or phase != CRITIC)


def _overhead(job: Job, phases: tuple[str, ...]) -> list[Line]:
    """What is no tensor. VeRL empties torch's cache before vLLM wakes, so blocks are lost only while models work."""
    lost, asleep = FRAGMENTATION * job.memory, ASLEEP if job.rollout else 0
    return [
        Line("CUDA context", CONTEXT, "and NCCL's buffers", RULE, frozenset(phases)),
        Line("fragmentation", lost, "3 % of the device", RULE, frozenset(phases) - {ROLLOUT, SYNC}),
        Line("vLLM asleep", asleep, "its context and CUDA graphs", RULE, frozenset(phases) - {ROLLOUT}),
    ]


def _model(model: Trained, job: Job, phases: tuple[str, ...]) -> list[Line]:
    """Lines of one trained model. What is offloaded is on the GPU only while the model works."""
    learn = CRITIC if model.name == "critic" else UPDATE
    away = model.offload_policy
    parameters = frozenset(_works(model, learn) if model.param_offload else phases)
    optimizer = frozenset({learn, STEP} if model.optimizer_offload else phases)
    lines = [
        _parameters(model, frozenset() if away else parameters),
        _gradients(model, frozenset() if away else frozenset({learn, STEP})),
        _whole_gradients(model, frozenset({learn})),
        _optimizer(model, frozenset() if away else optimizer),
        _step(model, frozenset() if away else frozenset({STEP})),
        *_update(model, learn),
    ]
    if model.name == "actor" and LOG_PROB in phases:
        part = moments.forward(model)
        lines.append(Line(part.name, part.bytes, part.formula, part.source, frozenset({LOG_PROB})))
        lines.append(_whole_weights(model, job))
    return lines


def _works(model: Trained, learn: str) -> set[str]:
    """The phases that need the weights of a model on the GPU.

    FSDP2 sends the weights to vLLM tensor by tensor, from where they lie; FSDP1 and LoRA load them all for it.
    """
    if model.name != "actor":
        return {learn, STEP}
    loads = not model.fsdp2 or bool(model.lora_rank)
    return {learn, STEP, LOG_PROB} | ({SYNC} if loads else set())


def _billions(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e7 else f"{number / 1e6:.2f} M"


def _parameters(model: Trained, phases: frozenset[str]) -> Line:
    count = model.shape.parameters + (model.trained_parameters if model.lora_rank else 0)
    formula = f"{_billions(count)} x {model.master_bytes} bytes / {model.shard} GPUs"
    return Line(f"{model.name} parameters", count * model.master_bytes / model.shard, formula, ZERO, phases)


def _gradients(model: Trained, phases: frozenset[str]) -> Line:
    formula = f"{_billions(model.trained_parameters)} x {model.master_bytes} bytes / {model.shard} GPUs"
    size = model.trained_parameters * model.master_bytes / model.shard
    return Line(f"{model.name} gradients", size, formula, ZERO, phases)


def _whole_gradients(model: Trained, phases: frozenset[str]) -> Line:
    """Gradients that wait whole, in the type of the reduction, until the last micro batch reduces them."""
    size = model.trained_parameters * REDUCED * (1 - 1 / model.shard) if model.whole_gradients else 0
    formula = f"{_billions(model.trained_parameters)} x {REDUCED} bytes, less its share (use_no_sync_for_gradient_accumulation)"
    return Line(f"{model.name} whole gradients", size, formula, VERL, phases)


def _optimizer(model: Trained, phases: frozenset[str]) -> Line:
    formula = (
        f"{_billions(model.trained_parameters)} x 2 AdamW moments x {model.master_bytes} bytes / {model.shard} GPUs"
    )
    size = model.trained_parameters * 2 * model.master_bytes / model.shard
    return Line(f"{model.name} optimizer", size, formula, ZERO, phases)


def _step(model: Trained, phases: frozenset[str]) -> Line:
    size = model.trained_parameters * model.master_bytes / model.shard
    formula = "one copy of the gradients: AdamW's denominator, all tensors at once (foreach)"
    return Line(f"{model.name} optimizer step", size, formula, "torch.optim.AdamW, foreach", phases)


def _update(model: Trained, learn: str) -> Iterator[Line]:
    """What comes and goes in a micro batch: the lines of its largest moment."""
    moment = moments.largest(model)
    for part in moment.parts:
        formula = f"at {moment.name}: {part.formula}"
        yield Line(f"{model.name} {part.name}", part.bytes, formula, part.source, frozenset({learn}))


def _whole_weights(model: Trained, job: Job) -> Line:
    """FSDP1 puts all weights on each GPU to send them: adapters unless they are summoned layer by layer, and one GPU's state
    dict, which copies every weight. FSDP2 hands out one tensor at a time."""
    summons = bool(model.lora_rank) and job.gpus > 1 and not (job.rollout and job.rollout.layered_summon)
    copies = not model.lora_rank and job.gpus == 1
    size = model.shape.parameters * model.master_bytes if not model.fsdp2 and (summons or copies) else 0
    formula = f"{_billions(model.shape.parameters)} x {model.master_bytes} bytes (FSDP1)"
    return Line("whole weights", size, formula, VERL, frozenset({SYNC}))


def _rollout(job: Job, rollout: Rollout) -> list[Line]:
    """vLLM takes `gpu_memory_utilization` of the device; what weights and passes leave of it is KV cache."""
    split, shape, awake = rollout.tensor_parallel, rollout.shape, frozenset({ROLLOUT})
    weights = shape.parameters * rollout.item / split
    passes = rollout.batched_tokens * rollout.item * (4 * shape.hidden + 2 * shape.mlp / split)
    passes += rollout.max_num_seqs * shape.vocab * 2 * 4
    graphs = 0 if rollout.eager else GRAPHS
    cache = rollout.share * job.memory - weights - passes - ENGINE - graphs
    each = shape.kv_bytes(split, rollout.item)
    actor = job.models[0]
    adapters = actor.lora_rank and not rollout.sends_base
    tensor = shape.largest_adapter(actor.lora_rank) if adapters else shape.largest_tensor
    texts = {
        "weights": f"{_billions(shape.parameters)} x {rollout.item} bytes / TP {split}",
        "passes": f"{rollout.batched_tokens} tokens x (4 h + 2 i / TP) x {rollout.item} + {rollout.max_num_seqs} logits x 8",
        "cache": f"{rollout.share:g} of {job.memory / GIB:.1f} GB less the lines above; {each / 1024:.0f} KiB a token",
        "sync": f"bucket {rollout.bucket / GIB:.2g} GB + largest tensor {_billions(tensor)} x {actor.master_bytes} bytes",
    }
    return [
        Line("vLLM weights", weights, texts["weights"], VLLM, frozenset({ROLLOUT, SYNC})),
        Line("vLLM passes and context", passes + ENGINE, texts["passes"] + " + 0.5 GB", VLLM, awake),
        Line("vLLM KV cache", cache, texts["cache"], VLLM, awake),
        Line("vLLM CUDA graphs", graphs, "none with enforce_eager", RULE, awake),
        Line("weight sync", rollout.bucket + tensor * actor.master_bytes, texts["sync"], VERL, frozenset({SYNC})),
    ]


def _host(job: Job) -> list[Line]:
    """What one node holds in its own memory: while it trains, or while it loads a model, whichever is more."""
    training, loading = list(_while_training(job)), list(_while_loading(job))
    lines = max(training, loading, key=lambda lines: sum(line.bytes for line in lines))
    size = job.gpus_per_node * HOST_PROCESS
    return [*lines, Line("processes", size, f"{job.gpus_per_node} workers x 4 GB", RULE, frozenset({HOST}))]


def _while_training(job: Job) -> Iterator[Line]:
    host = frozenset({HOST})
    for model in job.models:
        of_node = job.gpus_per_node / model.shard  # more than 1 where a node holds several copies
        if model.param_offload or model.offload_policy:
            size = model.shape.parameters * model.master_bytes * of_node
            yield Line(f"{model.name} parameters, offloaded", size, "parameters of the node's GPUs", VERL, host)
        if model.optimizer_offload or model.offload_policy:
            size = model.trained_parameters * 2 * model.master_bytes * of_node
            yield Line(f"{model.name} optimizer, offloaded", size, "two moments of the node's GPUs", VERL, host)
    if job.reference:
        size = job.reference.parameters * 4 * min(job.gpus_per_node / job.models[0].shard, 1)
        yield Line("reference model", size, "x 4 bytes; VeRL keeps it on the host between passes", VERL, host)
    if job.rollout and job.rollout.keeps_weights:
        size = job.rollout.shape.parameters * job.rollout.item / job.rollout.tensor_parallel * job.gpus_per_node
        yield Line("vLLM weights, asleep", size, "with LoRA vLLM sleeps at level 1", VERL, host)
    if job.saves_model:
        size = job.models[0].shape.parameters * (job.models[0].master_bytes + 2)
        yield Line(
            "model being saved", size, "hf_model: all weights on the first rank, and a bf16 model for them", VERL, host
        )


def _while_loading(job: Job) -> Iterator[Line]:
    """VeRL loads a model once in each group that shares it, but a tied one on every rank."""
    model = max(job.models, key=lambda model: model.shape.parameters)
    copies = job.gpus_per_node if model.shape.tied else max(job.gpus_per_node / model.shard, 1)
    formula = f"{_billions(model.shape.parameters)} x {model.master_bytes} bytes x {copies:g} ranks that load it"
    size = model.shape.parameters * model.master_bytes * copies
    yield Line(f"{model.name} being loaded", size, formula, VERL, frozenset({HOST}))
