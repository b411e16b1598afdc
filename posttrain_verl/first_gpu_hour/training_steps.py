"""Measured training steps: `python -m posttrain_verl.first_gpu_hour.training_steps ORDER.json`.

One process trains a model of random weights with VeRL's own worker and engine (posttrain_verl/verl/single_worker.py). For each
step it writes the tokens of the largest micro batch, the peak memory, the time and the floating-point operations.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.base_models import shape as shapes
from posttrain_verl.paths import write_atomically
from posttrain_verl.run import environment
from posttrain_verl.verl import single_worker
from posttrain_verl.verl.single_worker import SingleWorker

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
        write_atomically(file, json.dumps(asdict(self), indent=1) + "\n")


def measure_steps(order: Order) -> None:
    started, out = time.monotonic(), Path(order.out)
    _prepare_environment(order.backend, out.parent)
    result = Result(missing=single_worker.import_worker())
    import torch

    _make_model(order.model_config, Path(order.model))
    torch.cuda.empty_cache()
    trainer = Trainer(order)
    result.device = str(single_worker.torch_device().get_device_name())
    result.peak_tflops = single_worker.promised_tflops()
    result.attention = trainer.worker.attention
    result.strategy = trainer.model.strategy
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
    os.environ |= environment.process_variables(backend, local_model=True)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "DIST_INIT_METHOD": f"file://{meeting.absolute()}"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # a rank alone needs no network
    os.environ |= single_worker.plugin_variables()


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


class Trainer:
    """A worker with the config of an SFT launch, and batches made for it."""

    def __init__(self, order: Order) -> None:
        self.worker = SingleWorker(OmegaConf.create(order.verl), order.model)
        self.model, self.longest = self.worker.model, self.worker.settings.longest
        self.shape = shapes.shape_of_config(order.model_config)
        self.random = random.Random(0)

    def step(self, batch: Batch) -> Step:
        device = single_worker.torch_device()
        lengths = self._lengths(batch)
        data = self.worker.make_batch([self._row(length) for length in lengths])
        device.reset_peak_memory_stats()
        device.synchronize()
        started = time.perf_counter()
        update = self.worker.train_batch(data)
        device.synchronize()
        seconds = time.perf_counter() - started
        tflops = training_flops(self.shape, lengths, bool(self.model.lora_rank)) / seconds / 1e12
        return Step(tokens=sum(lengths), largest=max(update.micro_batches), micro_batches=len(update.micro_batches),
                    seconds=seconds, allocated=device.max_memory_allocated() / GIB,
                    reserved=device.max_memory_reserved() / GIB, tflops=tflops, verl_mfu=update.mfu,
                    loss=update.loss, grad_norm=update.grad_norm)  # fmt: skip

    def compare_rows(self, sequences: int = 4) -> dict[str, float]:
        """How far log-probabilities of packed rows are from those of padded rows under transformers' `sdpa`.

        The other figure is the scale: how far they are when the rows run together, as in an attention that does not see
        where a sequence begins.
        """
        longest = max(min(self._budget() // sequences, self.longest, MOST_COMPARED), 2)
        rows = [self._row(self.random.randint(max(longest // 2, 1), longest)) for _ in range(sequences)]
        packed = self.worker.log_probabilities(rows, packed=True)
        merged = self.worker.log_probabilities([[token for row in rows for token in row]], packed=True)
        with self.worker.other_attention("sdpa"):
            padded = self.worker.log_probabilities(rows, packed=False)
        return {
            "packed_against_padded_sdpa": _relative_distance(packed, padded),
            "run_together": _relative_distance(packed, merged),
        }

    def _budget(self) -> int:
        """Tokens that one micro batch may hold."""
        if self.model.dynamic_batches:
            return int(self.model.token_budget)
        return int((self.model.micro_batch_size or 1) * self.longest)

    def _lengths(self, batch: Batch) -> list[int]:
        """Lengths of the sequences of a step: they fill the token budget exactly, or are as many as micro batches hold."""
        longest = self.longest
        if not self.model.dynamic_batches:
            rows = batch.micro_batches * (self.model.micro_batch_size or 1)
            longest = max(int(longest * batch.fill), 2)
            return [self.random.randint(max(int(longest * SHORTEST), 1), longest) for _ in range(rows)]
        lengths, left = [], int(self._budget() * batch.fill) * batch.micro_batches
        while left:
            lengths.append(min(self.random.randint(max(int(longest * SHORTEST), 1), longest), left))
            left -= lengths[-1]
        return lengths

    def _row(self, length: int) -> list[int]:
        return [self.random.randrange(self.shape.vocab) for _ in range(length)]


def training_flops(shape: shapes.Shape, lengths: Sequence[int], lora: bool) -> float:
    """Operations of one step that are needed, recomputation not counted: 6 a weight and token, 4 where weights are frozen.

    The embedding is a look-up and counts nothing; the output layer counts. Causal attention: half of the matrix.
    """
    weights = shape.layers * shape.layer_parameters + shape.vocab * shape.hidden
    attention = 6 * shape.layers * shape.q_width * sum(length * length for length in lengths)
    return (4 if lora else 6) * weights * sum(lengths) + attention


def _relative_distance(one: Any, other: Any) -> float:
    """Root of the mean squared difference, as a share of the spread of the first."""
    return float((one - other).square().mean().sqrt() / one.std())


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    measure_steps(Order(**given | {"batches": [Batch(**each) for each in given["batches"]]}))
