"""Training steps that are measured: `python -m posttrain_verl.verl.training_steps ORDER.json`.

One process trains a made model (random weights) with VeRL's own worker and engine, as VeRL's SFT trainer does, and with the
config that it is given. Of each step it writes how many tokens the largest micro batch had, the peak of memory, the time and the
floating-point operations. Ray, data files and tokenizers are not needed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from posttrain_verl.plan import shape as shapes
from posttrain_verl.run import environment
from posttrain_verl.run.folder import replace
from posttrain_verl.verl.placeholders import for_missing_packages

CHECKOUT = Path(__file__).resolve().parents[2]
SHORTEST = 0.25  # of the longest sequence: what the shortest made one has
MOST_COMPARED = 512  # tokens of a row that is compared: a padded batch takes log-probabilities in many bytes a logit
GIB = 2**30


@dataclass(frozen=True)
class Batch:
    """One training step: `micro_batches` micro batches, each `fill` of what one may hold."""

    fill: float
    micro_batches: int = 1


@dataclass(frozen=True)
class Order:
    """What is to be measured: VeRL's config of an SFT launch, the steps, and where the made model and the result lie.

    `model_config` are keys of a config.json. `backend` is "cpu" or the name of a GPU.
    """

    verl: dict[str, Any]
    model_config: dict[str, Any]
    backend: str
    batches: list[Batch]
    model: str
    out: str
    compare_rows: bool = False

    @classmethod
    def read(cls, file: Path) -> Order:
        found = json.loads(file.read_text())
        return cls(**found | {"batches": [Batch(**each) for each in found["batches"]]})


@dataclass(frozen=True)
class Step:
    """One measured step. Memory is in GB of 2^30 bytes; `largest` are the tokens of the largest micro batch, padding included."""

    tokens: int
    largest: int
    micro_batches: int
    seconds: float
    allocated: float
    reserved: float
    tflops: float
    verl_mfu: float | None
    loss: float
    grad_norm: float


@dataclass
class Result:
    """What a process measured so far; it is written again after each step, so that a process that is ended leaves it."""

    device: str = ""
    attention: str = ""
    strategy: str = ""
    peak_tflops: float | None = None
    missing: list[str] = field(default_factory=list)
    seconds_to_start: float = 0.0
    steps: list[Step] = field(default_factory=list)
    rows: dict[str, float] = field(default_factory=dict)  # what `compare_rows` gives

    def write(self, file: Path) -> None:
        replace(file, json.dumps(asdict(self), indent=1) + "\n")


def measure(order: Order) -> None:
    """Train the steps of `order` and write what they took."""
    started, out = time.monotonic(), Path(order.out)
    _prepare_environment(order.backend, out.parent)
    result = Result(missing=import_verl())
    _make_model(order.model_config, Path(order.model))
    _free_memory()
    trainer = Trainer(order)
    result.device, result.peak_tflops = trainer.device()
    result.attention, result.strategy = trainer.attention, order.verl["engine"]["strategy"]
    result.seconds_to_start = time.monotonic() - started
    result.write(out)
    if order.compare_rows:
        result.rows = trainer.compare_rows()
        result.write(out)
        print("log-probabilities:", result.rows, flush=True)
    for batch in order.batches:
        result.steps.append(trainer.step(batch))
        print(result.steps[-1], flush=True)
        result.write(out)


def _prepare_environment(backend: str, folder: Path) -> None:
    """The variables of a run, those of one rank alone, and our plugins: a checkout need not be installed."""
    meeting = folder / f"rendezvous-{os.getpid()}"
    os.environ |= environment.of_processes(backend, local_model=True)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "0", "DIST_INIT_METHOD": f"file://{meeting.absolute()}",
                   "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo",  # a rank alone needs no network
                   **_plugins()}  # fmt: skip


def _plugins() -> dict[str, str]:
    """The variables that let VeRL load our plugins. Only what is installed has entry points, by which VeRL finds them itself."""
    project = CHECKOUT / "pyproject.toml"
    if not project.is_file():
        return {}
    modules = tomllib.loads(project.read_text())["project"]["entry-points"]["verl.plugins"]
    return {"VERL_USE_EXTERNAL_MODULES": ",".join(modules.values()), "VERL_USE_EXTERNAL_PLUGINS": "none"}


def import_verl() -> list[str]:
    """Import VeRL's engine; returns the packages that are missing here and were stood in for."""
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    with for_missing_packages() as made:
        import verl.workers.engine_workers  # noqa: F401
    return sorted({name.partition(".")[0] for name in made})


def _make_model(keys: dict[str, Any], folder: Path) -> None:
    """A folder with random weights of the shape that `keys` describe, in bf16 as published ones are; kept if it is there."""
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**keys)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def _free_memory() -> None:
    import torch

    torch.cuda.empty_cache()


class Trainer:
    """VeRL's training worker with the config of an SFT launch, and batches made for it."""

    def __init__(self, order: Order) -> None:
        config: Any = OmegaConf.create(order.verl)
        self.data, self.packed = config.data, bool(config.model.use_remove_padding)
        self.lora = bool(config.model.lora_rank)
        self.shape = shapes.of_config(order.model_config)
        self.random = random.Random(0)
        self.worker = _worker(config, order.model)
        self.micro_batches: list[int] = []
        self._note_micro_batches()

    @property
    def attention(self) -> str:
        """The attention that transformers runs."""
        return str(self.worker.model_config.hf_config._attn_implementation)

    def device(self) -> tuple[str, float | None]:
        """Its name, and the rate in TFLOP/s that VeRL's table promises; None for one that the table does not have."""
        from verl.utils.device import get_torch_device
        from verl.utils.flops_counter import get_device_flops

        rate = get_device_flops("T")
        return str(get_torch_device().get_device_name()), rate if rate < 1e6 else None

    def step(self, batch: Batch) -> Step:
        """Train one step."""
        from verl.utils import tensordict_utils as tu
        from verl.utils.device import get_torch_device

        device = get_torch_device()
        lengths = self._lengths(batch)
        data = self._tensors([self._row(length) for length in lengths])
        tu.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=_one_value(lengths))
        self.micro_batches.clear()
        device.reset_peak_memory_stats()
        device.synchronize()
        started = time.perf_counter()
        metrics = tu.get(self.worker.train_batch(data), "metrics")
        device.synchronize()
        seconds = time.perf_counter() - started
        largest = max(self.micro_batches)
        tflops = training_flops(self.shape, lengths, self.lora) / seconds / 1e12
        return Step(tokens=sum(lengths), largest=largest, micro_batches=len(self.micro_batches), seconds=seconds,
                    allocated=device.max_memory_allocated() / GIB, reserved=device.max_memory_reserved() / GIB,
                    tflops=tflops, verl_mfu=metrics.get("mfu"),
                    loss=float(metrics["loss"]), grad_norm=float(metrics["grad_norm"]))  # fmt: skip

    def compare_rows(self, sequences: int = 4) -> dict[str, float]:
        """How far log-probabilities of packed rows are from those of padded rows under transformers' `sdpa`.

        The other figure is the scale: how far they are when the rows run together, as in an attention that does not see
        where a sequence begins.
        """
        longest = max(min(self._budget() // sequences, int(self.data.max_length), MOST_COMPARED), 2)
        rows = [self._row(self.random.randint(max(longest // 2, 1), longest)) for _ in range(sequences)]
        packed = self._log_probabilities(rows, packed=True)
        merged = self._log_probabilities([[token for row in rows for token in row]], packed=True)
        with self._attention("sdpa"):
            padded = self._log_probabilities(rows, packed=False)
        return {"packed_against_padded_sdpa": _distance(packed, padded), "run_together": _distance(packed, merged)}

    @contextmanager
    def _attention(self, name: str) -> Iterator[None]:
        """While it lasts, the model takes another attention: each layer looks the name up in the one config they share."""
        module = self.worker.engine.module
        config = getattr(module, "_fsdp_wrapped_module", module).config  # FSDP1 wraps the model
        before, config._attn_implementation = config._attn_implementation, name
        try:
            yield
        finally:
            config._attn_implementation = before

    def _log_probabilities(self, rows: Sequence[Sequence[int]], packed: bool) -> Any:
        from verl.utils import tensordict_utils as tu

        data = self._tensors(rows)
        tu.assign_non_tensor(data, use_remove_padding=packed, use_dynamic_bsz=False, micro_batch_size_per_gpu=len(rows))
        return self.worker.infer_batch(data)["log_probs"].values().float()

    def _note_micro_batches(self) -> None:
        """Let the engine say how large each micro batch of a step is."""
        original = self.worker.engine.forward_step

        def forward_step(micro_batch: Any, *args: Any, **kwargs: Any) -> Any:
            lengths = micro_batch["input_ids"].offsets().diff()
            self.micro_batches.append(int(lengths.sum() if self.packed else lengths.max() * len(lengths)))
            return original(micro_batch, *args, **kwargs)

        self.worker.engine.forward_step = forward_step

    def _budget(self) -> int:
        """Tokens that one micro batch may hold."""
        if self.data.use_dynamic_bsz:
            return int(self.data.max_token_len_per_gpu)
        return int(self.data.micro_batch_size_per_gpu * self.data.max_length)

    def _lengths(self, batch: Batch) -> list[int]:
        """Lengths of the sequences of a step: they fill the token budget exactly, or are as many as micro batches hold."""
        longest = int(self.data.max_length)
        if not self.data.use_dynamic_bsz:
            rows, longest = batch.micro_batches * self.data.micro_batch_size_per_gpu, max(int(longest * batch.fill), 2)
            return [self.random.randint(max(int(longest * SHORTEST), 1), longest) for _ in range(rows)]
        return list(self._filling(int(self._budget() * batch.fill) * batch.micro_batches, longest))

    def _filling(self, tokens: int, longest: int) -> Iterator[int]:
        while tokens:
            length = min(self.random.randint(max(int(longest * SHORTEST), 1), longest), tokens)
            yield length
            tokens -= length

    def _row(self, length: int) -> list[int]:
        return [self.random.randrange(self.shape.vocab) for _ in range(length)]

    def _tensors(self, rows: Sequence[Sequence[int]]) -> Any:
        """The batch as VeRL's SFT data set and collator make it."""
        import torch
        from verl.utils import tensordict_utils as tu
        from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator

        made = [{"input_ids": torch.tensor(row), "position_ids": torch.arange(len(row)), "loss_mask": torch.ones(len(row))}
                for row in rows]  # fmt: skip
        meta = {"use_remove_padding": self.packed, "use_dynamic_bsz": bool(self.data.use_dynamic_bsz),
                "max_token_len_per_gpu": self.data.max_token_len_per_gpu, "temperature": 1.0,
                "micro_batch_size_per_gpu": self.data.micro_batch_size_per_gpu, "global_batch_size": len(rows),
                "pad_mode": DatasetPadMode.NO_PADDING, "pad_token_id": 0}  # fmt: skip
        return tu.get_tensordict(SFTTensorCollator(DatasetPadMode.NO_PADDING)(made), meta)


def training_flops(shape: shapes.Shape, lengths: Sequence[int], lora: bool) -> float:
    """Operations of one step that are needed, recomputation not counted: 6 a weight and token, 4 where weights are frozen.

    The embedding is a look-up and counts nothing; the output layer counts. Causal attention: half of the matrix.
    """
    weights = shape.layers * shape.layer_parameters + shape.vocab * shape.hidden
    attention = 6 * shape.layers * shape.q_width * sum(length * length for length in lengths)
    return (4 if lora else 6) * weights * sum(lengths) + attention


def _distance(one: Any, other: Any) -> float:
    """Root of the mean squared difference, as a share of the spread of the first."""
    return float((one - other).square().mean().sqrt() / one.std())


def _one_value(value: Any) -> Any:
    from tensordict import NonTensorData

    return NonTensorData(value)  # a list would be read as one value a row


def _worker(config: Any, model: str) -> Any:
    """VeRL's worker, as verl.trainer.sft_trainer builds it."""
    from functools import partial

    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import sft_loss

    with open_dict(config):
        config.model.path, config.model.load_tokenizer = model, False
        config.optim.total_training_steps = 100  # of the schedule of the learning rate
    nodes = "model", "engine", "optim", "checkpoint", "profiler"
    parts = {node: omega_conf_to_dataclass(config[node]) for node in nodes}
    worker = TrainingWorker(TrainingWorkerConfig(
        model_type="language_model", model_config=parts["model"], engine_config=parts["engine"],
        optimizer_config=parts["optim"], checkpoint_config=parts["checkpoint"], profiler_config=parts["profiler"],
    ))  # fmt: skip
    worker.set_loss_fn(partial(sft_loss, config=None))
    worker.reset()
    return worker


if __name__ == "__main__":
    measure(Order.read(Path(sys.argv[1])))
