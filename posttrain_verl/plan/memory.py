"""The memory model: what lies on one GPU, and on the host of one node, in each phase of a step.

A step has phases that follow each other on the same GPUs: vLLM generates (`rollout`), log-probabilities are taken
(`log_prob`), models learn (`update`, `critic`), the optimizer steps (`step`), and the new weights go to vLLM (`sync`).
Each line says in which of them it is there. The largest sum over a phase is what the GPU must hold.

Within the update the largest moment counts. FSDP gathers one part of the model at a time and reduces its gradient before it
continues, so the logits, the layer that is recomputed and the gradient of the embedding are never there together. Checked
with torch's FSDPMemTracker (benchmarks/plan_tracker.py) on FSDP2 as VeRL 0.9.1 wraps it (verl.utils.fsdp_utils.apply_fsdp2).
Activations are counted as in Korthikanti et al. 2022 (arXiv 2205.05198), for a gated MLP, RMSNorm and flash attention.

GB are 2^30 bytes, as in torch and in VeRL's own perf/max_memory_allocated_gb.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from posttrain_verl.base_models.shape import Shape
from posttrain_verl.verl.job import GIB, Job, RolloutEngine, TrainedModel

KORTHIKANTI = "Korthikanti et al. 2022 (arXiv 2205.05198)"
FSDP = "PyTorch FSDP, Zhao et al. 2023 (arXiv 2304.11277); torch's FSDPMemTracker"
VERL = "VeRL 0.9.1, verl/workers/engine/fsdp and engine_workers"
SDPA = "transformers, sdpa_mask and repeat_kv; torch's attention turns the mask into the compute type"


@dataclass(frozen=True)
class Part:
    """Something that is in memory at a moment."""

    name: str
    bytes: float
    formula: str
    source: str


@dataclass(frozen=True)
class Moment:
    """A moment and what is there only then."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)


def largest_moment(model: TrainedModel) -> Moment:
    """The moment of a training step that needs most."""
    moments = (_loss_moment(model), _output_layer_moment(model), _last_layer_moment(model), _embedding_moment(model))
    return max(moments, key=lambda moment: moment.bytes)


def forward_part(model: TrainedModel) -> Part:
    """The pass that only takes log-probabilities: at the output layer, or where no logits are made in a layer."""
    shape, item = model.shape, model.compute_bytes
    gathered = item * shape.word_parameters * (2 if model.shard > 1 else 1)
    if not model.outer_apart:
        gathered = item * (shape.outer_parameters + (shape.layer_parameters if model.shard > 1 else 0))
    logits, layer = shape.vocab * model.logit_bytes[1], layer_bytes(shape, item)
    tokens = max(logits + 2 * item * shape.hidden, layer)
    mask = model.mask_pairs(model.forward_tokens) * (1 + item)
    formula = f"{model.forward_tokens} tokens x {tokens / 1024:.0f} KiB + gathered output layer"
    return Part("log-probabilities", model.forward_tokens * tokens + gathered + mask, formula, VERL)


def _loss_moment(model: TrainedModel) -> Moment:
    """The loss and its gradient, before the output layer's backward pass: logits in all their copies."""
    held = 0 if model.fsdp2 else model.shape.outer_parameters
    return Moment("the loss", (
        _gathered_part(model, held, "embedding and output layer" if held else ""),
        _activations_part(model, _kept_bytes(model), ""),
        _logits_part(model, model.logit_bytes[0]),
        *_mask_parts(model, again=False),
    ))  # fmt: skip


def _output_layer_moment(model: TrainedModel) -> Moment:
    """The output layer's backward pass: logits, its gradient, and the last layer gathered ahead."""
    shape = model.shape
    outer = shape.word_parameters if model.outer_apart else shape.outer_parameters
    ahead = shape.layer_parameters if model.shard > 1 else 0
    return Moment("the output layer", (
        _gathered_part(model, outer + ahead, "output layer + the next layer"),
        _gradients_part(model, model.compute_bytes * shape.word_parameters, f"output layer x {model.compute_bytes} bytes"),
        _activations_part(model, _kept_bytes(model) + model.compute_bytes * shape.hidden, ""),
        _logits_part(model, model.compute_bytes if model.logit_bytes[0] else 0),
        *_mask_parts(model, again=False),
    ))  # fmt: skip


def _last_layer_moment(model: TrainedModel) -> Moment:
    """The MLP's backward pass in the last layer, while the gradient of what came before is being reduced in fp32."""
    shape, item, split = model.shape, model.compute_bytes, model.shard > 1
    held = 0 if model.outer_apart else shape.outer_parameters
    # Three gradients of the MLP's width come, the product of gate and up goes; its input and result have a gradient, too.
    mlp_gradients = item * (3 - 1) * shape.mlp_width + 2 * item * shape.hidden
    each = all_layers_bytes(shape, item, model.checkpointing) + mlp_gradients
    again = shape.layers * _repeated_bytes(model)
    if model.checkpointing:
        again = layer_bytes(shape, item) + _repeated_bytes(model)
    waiting = 4 * max(shape.word_parameters if model.outer_apart else 0, shape.layer_parameters) * split
    waiting += item * held
    return Moment("the last layer", (
        _gathered_part(model, held + shape.layer_parameters * (1 + split), "this layer + the next" if split else "this layer"),
        _gradients_part(model, item * shape.down_parameters + waiting, "down projection + what is being reduced x 4 bytes"),
        _activations_part(model, each + again, "with its MLP's gradients"),
        *_mask_parts(model, again=True),
    ))  # fmt: skip


def _embedding_moment(model: TrainedModel) -> Moment:
    """The end of the backward pass: a tied embedding has two gradients and their sum, another is reduced in fp32."""
    shape, item, split = model.shape, model.compute_bytes, model.shard > 1
    gradients = 3 * item * shape.outer_parameters + 4 * shape.layer_parameters * split
    formula = f"embedding: two gradients and their sum x {item} bytes + a layer x 4"
    held = shape.outer_parameters
    if model.outer_apart:
        gradients, formula = (item + 4 * split) * shape.word_parameters, f"embedding x {item} bytes + x 4"
        held = 0
    return Moment("the embedding", (
        _gathered_part(model, held, "embedding" if held else ""),
        _gradients_part(model, gradients, formula),
        _activations_part(model, item * shape.hidden, ""),
    ))  # fmt: skip


def _kept_bytes(model: TrainedModel) -> float:
    """Bytes a token that the forward pass leaves behind."""
    shape, item = model.shape, model.compute_bytes
    repeated = 0 if model.checkpointing else shape.layers * _repeated_bytes(model)
    return all_layers_bytes(shape, item, model.checkpointing) + outer_bytes(shape, item) + repeated


def _repeated_bytes(model: TrainedModel) -> float:
    """Bytes a token that a layer keeps more under sdpa with a mask: keys and values are copied for each query head."""
    return 2 * model.compute_bytes * (model.shape.q_width - model.shape.kv_width) if model.dense_mask else 0


def _gathered_part(model: TrainedModel, parameters: float, what: str) -> Part:
    if not model.reshards:
        parameters, what = model.shape.parameters, "all layers (reshard_after_forward=false)"
    return Part("gathered layers", parameters * model.compute_bytes, f"{what} x {model.compute_bytes} bytes", FSDP)


def _gradients_part(model: TrainedModel, size: float, what: str) -> Part:
    return Part("unreduced gradients", 0 if model.lora_rank else size, what, FSDP)


def _activations_part(model: TrainedModel, each: float, more: str) -> Part:
    how = "layer inputs" if model.checkpointing else f"{model.shape.layers} layers"
    formula = f"{model.tokens} tokens x {each / 1024:.0f} KiB ({how}{' and this layer ' + more if more else ''})"
    return Part("activations", model.tokens * each, formula, KORTHIKANTI)


def _logits_part(model: TrainedModel, each: float) -> Part:
    formula = f"{model.tokens} tokens x {model.shape.vocab} words x {each:g} bytes"
    return Part("logits", model.tokens * model.shape.vocab * each, formula, VERL)


def _mask_parts(model: TrainedModel, again: bool) -> Iterator[Part]:
    """The dense mask of sdpa: one byte a pair of tokens, and in the compute type for each layer whose attention is kept."""
    layers = int(again) if model.checkpointing else model.shape.layers
    pairs, copies = model.mask_pairs(model.tokens), 1 + model.compute_bytes * layers
    if pairs:
        yield Part("attention mask", pairs * copies, f"{pairs / 1e6:.0f} M pairs of tokens x {copies} bytes", SDPA)


def layer_bytes(shape: Shape, item: int = 2) -> float:
    """Bytes a token that one decoder layer keeps, in a compute type of `item` bytes."""
    norms = 2 * (4 + item) * shape.hidden + (4 + item) * (shape.q_width + shape.kv_width) * shape.qk_norm
    inputs = 2 * item * shape.hidden
    attention = item * 2 * (shape.q_width + shape.kv_width) + 4 * shape.heads
    routed = item * shape.hidden * shape.active_experts * 2
    return norms + inputs + attention + 4 * item * shape.mlp_width + routed


def outer_bytes(shape: Shape, item: int = 2) -> float:
    """Bytes a token kept outside the layers: the last norm and the input of the output layer. Logits are not in it."""
    return (4 + 2 * item) * shape.hidden


def all_layers_bytes(shape: Shape, item: int = 2, checkpointing: bool = True) -> float:
    """Bytes a token that all layers keep; with checkpointing only their inputs."""
    return shape.layers * (item * shape.hidden if checkpointing else layer_bytes(shape, item))


ROLLOUT, LOG_PROB, UPDATE, CRITIC, STEP, SYNC, HOST = "rollout", "log_prob", "update", "critic", "step", "sync", "host"
PHASES = (ROLLOUT, LOG_PROB, UPDATE, CRITIC, STEP, SYNC)

# Of the device, lost between blocks of torch's allocator with expandable segments, while models work.
FRAGMENTATION = 0.03
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
        return next(line for line in self.lines if line.name == name)

    @property
    def phases(self) -> list[str]:
        """The phases of this job, in the order of a step; the host is not among them."""
        return [phase for phase in PHASES if any(line.phases == {phase} for line in self.lines)]

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


def memory_table(job: Job) -> Table:
    """The memory of a job, line by line."""
    phases: tuple[str, ...] = (UPDATE, STEP)
    if job.rollout:
        critic = any(model.outputs_values for model in job.models)
        phases = tuple(phase for phase in PHASES if critic or phase != CRITIC)
    # What is not a tensor. VeRL empties torch's cache before vLLM wakes, so blocks are lost only while models work.
    lines = [
        Line("CUDA context", CONTEXT, "and NCCL's buffers", RULE, frozenset(phases)),
        Line(
            "fragmentation", FRAGMENTATION * job.memory, "3 % of the device", RULE, frozenset(phases) - {ROLLOUT, SYNC}
        ),
        Line(
            "vLLM asleep",
            ASLEEP if job.rollout else 0,
            "its context and CUDA graphs",
            RULE,
            frozenset(phases) - {ROLLOUT},
        ),
    ]
    for model in job.models:
        lines += _model_lines(model, job, frozenset(phases))
    if job.rollout:
        lines += _rollout_lines(job, job.rollout)
    # A node loads a model, and then trains it; its own memory must hold whichever is more.
    training, loading = list(_while_training(job)), [_loading_line(job)]
    lines += max(training, loading, key=lambda lines: sum(line.bytes for line in lines))
    workers = job.gpus_per_node
    lines.append(Line("processes", workers * HOST_PROCESS, f"{workers} workers x 4 GB", RULE, frozenset({HOST})))
    return Table(job, tuple(line for line in lines if line.bytes or line.name == "vLLM KV cache"))


def _format_billions(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e7 else f"{number / 1e6:.2f} M"


def _model_lines(model: TrainedModel, job: Job, phases: frozenset[str]) -> list[Line]:
    """Lines of one trained model. What is offloaded is on the GPU only while the model works."""
    name, shard, item = model.name, model.shard, model.master_bytes
    learn, trained = CRITIC if model.outputs_values else UPDATE, model.trained_parameters
    samples = job.rollout is not None and not model.outputs_values  # vLLM samples from it
    works = {learn, STEP, LOG_PROB} if samples else {learn, STEP}
    if samples and (not model.fsdp2 or model.lora_rank):
        works |= {
            SYNC
        }  # FSDP2 sends the weights to vLLM tensor by tensor, from where they lie; others load them all for it
    stays = frozenset() if model.offload_policy else phases
    each = f"{item} bytes / {shard} GPUs"
    count = model.shape.parameters + (trained if model.lora_rank else 0)
    whole = trained * REDUCED * (1 - 1 / shard) if model.whole_gradients else 0
    lines = [
        Line(f"{name} parameters", count * item / shard, f"{_format_billions(count)} x {each}", ZERO,
             stays & works if model.param_offload else stays),
        Line(f"{name} gradients", trained * item / shard, f"{_format_billions(trained)} x {each}", ZERO, stays & {learn, STEP}),
        # They wait whole, in the type of the reduction, until the last micro batch reduces them.
        Line(f"{name} whole gradients", whole, f"{_format_billions(trained)} x {REDUCED} bytes, less its share "
             "(use_no_sync_for_gradient_accumulation)", VERL, frozenset({learn})),
        Line(f"{name} optimizer", trained * 2 * item / shard, f"{_format_billions(trained)} x 2 AdamW moments x {each}", ZERO,
             stays & {learn, STEP} if model.optimizer_offload else stays),
        Line(f"{name} optimizer step", trained * item / shard, "one copy of the gradients: AdamW's denominator, all tensors "
             "at once (foreach)", "torch.optim.AdamW, foreach", stays & {STEP}),
    ]  # fmt: skip
    moment = largest_moment(model)  # of a micro batch: what comes and goes
    lines += [Line(f"{name} {part.name}", part.bytes, f"at {moment.name}: {part.formula}", part.source, frozenset({learn}))
              for part in moment.parts]  # fmt: skip
    if samples:
        part = forward_part(model)
        lines.append(Line(part.name, part.bytes, part.formula, part.source, frozenset({LOG_PROB})))
        lines.append(_whole_weights_line(model, job))
    return lines


def _whole_weights_line(model: TrainedModel, job: Job) -> Line:
    """FSDP1 puts all weights on each GPU to send them: adapters unless they are summoned layer by layer, and one GPU's state
    dict, which copies every weight. FSDP2 hands out one tensor at a time."""
    summons = bool(model.lora_rank) and job.gpus > 1 and not (job.rollout and job.rollout.layered_summon)
    copies = not model.lora_rank and job.gpus == 1
    size = model.shape.parameters * model.master_bytes if not model.fsdp2 and (summons or copies) else 0
    formula = f"{_format_billions(model.shape.parameters)} x {model.master_bytes} bytes (FSDP1)"
    return Line("whole weights", size, formula, VERL, frozenset({SYNC}))


def _rollout_lines(job: Job, rollout: RolloutEngine) -> list[Line]:
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
        "weights": f"{_format_billions(shape.parameters)} x {rollout.item} bytes / TP {split}",
        "passes": f"{rollout.batched_tokens} tokens x (4 h + 2 i / TP) x {rollout.item} + {rollout.max_num_seqs} logits x 8",
        "cache": f"{rollout.share:g} of {job.memory / GIB:.1f} GB less the lines above; {each / 1024:.0f} KiB a token",
        "sync": f"bucket {rollout.bucket / GIB:.2g} GB + largest tensor {_format_billions(tensor)} x {actor.master_bytes} bytes",
    }
    return [
        Line("vLLM weights", weights, texts["weights"], VLLM, frozenset({ROLLOUT, SYNC})),
        Line("vLLM passes and context", passes + ENGINE, texts["passes"] + " + 0.5 GB", VLLM, awake),
        Line("vLLM KV cache", cache, texts["cache"], VLLM, awake),
        Line("vLLM CUDA graphs", graphs, "none with enforce_eager", RULE, awake),
        Line("weight sync", rollout.bucket + tensor * actor.master_bytes, texts["sync"], VERL, frozenset({SYNC})),
    ]


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
        formula = "hf_model: all weights on the first rank, and a bf16 model for them"
        yield Line("model being saved", size, formula, VERL, host)


def _loading_line(job: Job) -> Line:
    """VeRL loads a model once in each group that shares it, but a tied one on every rank."""
    model = max(job.models, key=lambda model: model.shape.parameters)
    copies = job.gpus_per_node if model.shape.tied else max(job.gpus_per_node / model.shard, 1)
    formula = f"{_format_billions(model.shape.parameters)} x {model.master_bytes} bytes x {copies:g} ranks that load it"
    size = model.shape.parameters * model.master_bytes * copies
    return Line(f"{model.name} being loaded", size, formula, VERL, frozenset({HOST}))
