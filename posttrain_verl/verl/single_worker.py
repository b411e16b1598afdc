"""VeRL's training worker in one process of its own, as VeRL's SFT trainer builds it, without Ray, data files and tokenizers.

It trains on rows of token ids. Packages that VeRL imports and this process never calls may be missing: placeholders stand in
for them while VeRL is imported.
"""

from __future__ import annotations

import importlib.machinery
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from posttrain_verl.verl.settings import SftModel
from posttrain_verl.verl.sft import SftSettings

# What `import verl.workers.engine_workers` of VeRL 0.9.1 asks for beyond what its FSDP engine runs with.
UNUSED_PACKAGES = frozenset({"PIL", "datasets", "fastapi", "pandas", "pydantic", "ray", "uvicorn", "zmq"})


class _Anything(type):
    """A class whose attributes are such classes. Called with a function it returns the function, as a decorator does."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __call__(cls, *args: Any, **_: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) else cls


class _Finder:
    """Makes the missing modules, and remembers which it made. It is asked last, so what is installed is used."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names, self.made = names, list[str]()

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:  # fmt: skip
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = _Anything("module", (), {}).__getattr__  # type: ignore[method-assign]
        self.made.append(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def placeholders_for_missing(names: frozenset[str] = UNUSED_PACKAGES) -> Iterator[list[str]]:
    """While it lasts, those of `names` that are not installed can be imported; gives the list of what was.

    `transformers` and its kin look for packages, too, and must not find these: import them before.
    """
    finder = _Finder(names)
    sys.meta_path.append(finder)
    try:
        yield finder.made
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:
            sys.modules.pop(name, None)


def import_worker() -> list[str]:
    """Import VeRL's engine; returns the packages that are missing here and were stood in for."""
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    with placeholders_for_missing() as made:
        import verl.workers.engine_workers  # noqa: F401
    return sorted({name.partition(".")[0] for name in made})


def plugin_variables() -> dict[str, str]:
    """The variables by which VeRL finds our plugins in a checkout that is not installed: only an install has entry points."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not project.is_file():
        return {}
    modules = tomllib.loads(project.read_text())["project"]["entry-points"]["verl.plugins"]
    return {"VERL_USE_EXTERNAL_MODULES": ",".join(modules.values()), "VERL_USE_EXTERNAL_PLUGINS": "none"}


def torch_device() -> Any:
    """The module of torch for the device that VeRL trains on, e.g. `torch.cuda`."""
    from verl.utils.device import get_torch_device

    return get_torch_device()


def promised_tflops() -> float | None:
    """TFLOP/s in bf16 that VeRL's table promises for this device; None for one that the table does not have."""
    from verl.utils.flops_counter import get_device_flops

    rate = float(get_device_flops("T"))
    return rate if rate < 1e6 else None  # infinite for an unknown device


@dataclass(frozen=True)
class Update:
    """What one optimizer step said: `micro_batches` are the tokens of each, padding included."""

    micro_batches: list[int]
    loss: float
    grad_norm: float
    mfu: float | None


class SingleWorker:
    """VeRL's training worker for the config of an SFT launch, with the model in the folder `model`."""

    def __init__(self, config: DictConfig, model: str) -> None:
        self.settings, self.model = SftSettings(config), SftModel(config)
        self.packed = bool(self.model.packed_rows)
        self._worker = build_worker(self.model, model)
        self._micro_batches: list[int] = []  # tokens of each micro batch of the step, as the engine gets them
        original = self._worker.engine.forward_step

        def forward_step(micro_batch: Any, *args: Any, **kwargs: Any) -> Any:
            lengths = micro_batch["input_ids"].offsets().diff()
            self._micro_batches.append(int(lengths.sum() if self.packed else lengths.max() * len(lengths)))
            return original(micro_batch, *args, **kwargs)

        self._worker.engine.forward_step = forward_step

    @property
    def attention(self) -> str:
        """The name of the attention that the model has."""
        return str(self._worker.model_config.hf_config._attn_implementation)

    def make_batch(self, rows: Sequence[Sequence[int]]) -> Any:
        """Rows of token ids as VeRL's SFT data set and collator make a batch of them."""
        import torch
        from tensordict import NonTensorData
        from verl.utils import tensordict_utils as tu
        from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator

        made = [{"input_ids": torch.tensor(row), "position_ids": torch.arange(len(row)), "loss_mask": torch.ones(len(row))}
                for row in rows]  # fmt: skip
        meta = {"use_remove_padding": self.packed, "use_dynamic_bsz": bool(self.model.dynamic_batches),
                "max_token_len_per_gpu": self.model.token_budget, "temperature": 1.0,
                "micro_batch_size_per_gpu": self.model.micro_batch_size, "global_batch_size": len(rows),
                "pad_mode": DatasetPadMode.NO_PADDING, "pad_token_id": 0}  # fmt: skip
        batch = tu.get_tensordict(SFTTensorCollator(DatasetPadMode.NO_PADDING)(made), meta)
        # As it is, a list would be read as one value a row.
        lengths = NonTensorData([len(row) for row in rows])
        tu.assign_non_tensor(batch, update_lr_scheduler=True, global_token_num=lengths)
        return batch

    def train_batch(self, batch: Any) -> Update:
        """One optimizer step on a batch of `make_batch`."""
        from verl.utils import tensordict_utils as tu

        self._micro_batches.clear()
        metrics = tu.get(self._worker.train_batch(batch), "metrics")
        return Update(
            list(self._micro_batches), float(metrics["loss"]), float(metrics["grad_norm"]), metrics.get("mfu")
        )

    def log_probabilities(self, rows: Sequence[Sequence[int]], packed: bool) -> Any:
        """Log-probabilities of the tokens of all rows in one micro batch, as one flat tensor of fp32."""
        from verl.utils import tensordict_utils as tu

        batch = self.make_batch(rows)
        tu.assign_non_tensor(
            batch, use_remove_padding=packed, use_dynamic_bsz=False, micro_batch_size_per_gpu=len(rows)
        )
        return self._worker.infer_batch(batch)["log_probs"].values().float()

    @contextmanager
    def other_attention(self, name: str) -> Iterator[None]:
        """While it lasts, the model takes another attention: each layer looks the name up in the one config they share."""
        module = self._worker.engine.module
        config = getattr(module, "_fsdp_wrapped_module", module).config  # FSDP1 wraps the model
        before, config._attn_implementation = config._attn_implementation, name
        try:
            yield
        finally:
            config._attn_implementation = before


def build_worker(trained: SftModel, model: str) -> Any:
    """VeRL's worker, as verl.trainer.sft_trainer builds it."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import sft_loss

    for name, value in (("path", model), ("load_tokenizer", False), ("schedule_steps", 100)):
        trained.put(name, value)
    names = ("model", "engine", "optim", "checkpoint", "profiler")
    parts = {name: omega_conf_to_dataclass(trained.tree[name]) for name in names}
    worker = TrainingWorker(TrainingWorkerConfig(
        model_type="language_model", model_config=parts["model"], engine_config=parts["engine"],
        optimizer_config=parts["optim"], checkpoint_config=parts["checkpoint"], profiler_config=parts["profiler"],
    ))  # fmt: skip
    worker.set_loss_fn(partial(sft_loss, config=None))
    worker.reset()
    return worker
