"""Preference optimization on VeRL's engine: its SFT trainer's parts with batches of pairs, a loss of pairs, and a reference.

VeRL 0.9.1 has no such trainer. `force_group_size` keeps the two sequences of a pair in one micro batch, also in dynamic batches
(verl.workers.engine.utils.prepare_micro_batches). The reference is the model before its first step. The engine that trains takes
its log-probabilities, so no second model is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict.tensorclass import NonTensorData
from torch.utils.data import DataLoader
from tqdm import tqdm
from verl.utils import tensordict_utils as tu
from verl.utils.tracking import Tracking

from data_prep.manifest import file_sha256
from posttrain_verl.verl import pairs, reference
from posttrain_verl.verl.checkpoints import write_held_out
from posttrain_verl.verl.dpo_losses import preference_loss, sum_answers
from posttrain_verl.verl.metrics import GLOBAL_STEP, TIME_OF_STEP, VALIDATION_LOSS
from posttrain_verl.verl.sft_trainer import OrderedTrainer, WholeBatches

# Of the node `data`: names of files, whose contents count, and how rows are cut into batches and read.
WITHOUT_EFFECT = frozenset({
    "train_files", "val_files", "train_max_samples", "val_max_samples", "train_batch_size", "micro_batch_size_per_gpu",
    "max_token_len_per_gpu", "use_dynamic_bsz", "balance_dp_token", "num_workers", "use_shm",
})  # fmt: skip
AVERAGED = ("accuracy", "margin", "chosen_logp", "rejected_logp")  # sums over pairs


class PairTrainer(OrderedTrainer):
    """Trains on pairs of a chosen and a rejected answer. `settings` are those of `posttrain_verl.verl.dpo`, for this config."""

    train_dataset: pairs.PairData

    def __init__(self, config: DictConfig, settings: Any):
        self.settings, self.preference = settings, settings.preference_loss()
        super().__init__(config)

    def _build_dataset(self) -> None:
        data, model = self.config.data, self.model_config

        def open_files(files: Any, most: int) -> pairs.PairData:
            return pairs.PairData(files, data, model.tokenizer, model.processor, most)

        self.train_dataset = open_files(data.train_files, data.train_max_samples)
        held_out = open_files(data.val_files, data.val_max_samples) if data.val_files else None
        self.held_out = held_out
        self.val_dataset = held_out and WholeBatches(held_out, data.train_batch_size, pairs.without_answers)

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        self.collate_fn = pairs.PairCollator(self.config.data.pad_mode)
        for loader in (self.train_dataloader, self.val_dataloader):
            if loader is not None:
                loader.collate_fn = self.collate_fn

    def _build_engine(self) -> None:
        super()._build_engine()
        self.loss_fn = partial(preference_loss, self.preference)
        self.training_client.set_loss_fn(loss_fn=self.loss_fn)

    def _build_ckpt_handler(self) -> None:
        """What follows in `SFTTrainer.__init__` is the loading of a checkpoint: until then the model is the reference."""
        super()._build_ckpt_handler()
        self.ckpt_handler.max_ckpt_to_keep = None  # `Retention` deletes: the best one stays, which VeRL does not know
        if self.preference.needs_reference:
            self._compute_ref_log_prob()

    def _compute_ref_log_prob(self) -> None:
        """Give each data set its reference log-probabilities, read or computed. `progress` knows this function by its name."""
        model = reference.digest_model(self.model_config.local_path)
        reference.require_same_model(Path(self.settings.checkpoint_dir).parent, model)
        for rows in filter(None, (self.train_dataset, self.held_out)):
            key = reference.reference_key(self._reference_facts(model, rows))
            homes = self._reference_homes(rows)
            found = reference.read_reference(homes, key, len(rows))
            if found is None:
                found = self._measure_reference(rows)
                if broken := int((~np.isfinite(found)).any(axis=1).sum()):
                    what = f"the model gives no finite log-probability for {broken} of {len(rows)} pairs before any training"
                    raise FloatingPointError(f"{what}: look at its weights, {self.model_config.local_path}")
                kept = reference.write_reference(homes, key, found)
                print(f"reference log-probabilities of {len(rows)} pairs: {kept or 'cannot be kept'}", flush=True)
            rows.reference = found

    def _reference_facts(self, model: Mapping[str, str], rows: pairs.PairData) -> dict[str, Any]:
        """What the log-probabilities follow from: all of the node `data` but what only says how it is cut and read."""
        trained, adapter = self.settings.model, self.settings.model.lora_adapter
        node: Any = OmegaConf.to_container(self.config.data, resolve=True)
        settings = {name: value for name, value in node.items() if name not in WITHOUT_EFFECT}
        return {
            "model": dict(model), "adapter": reference.digest_model(adapter) if adapter else None,
            "data": [file_sha256(Path(file)) for file in rows.files], "pairs": len(rows),
            "settings": settings, "template": trained.chat_template,
            "dtypes": [str(trained.master_dtype), str(trained.compute_dtype)],
        }  # fmt: skip

    def _reference_homes(self, rows: pairs.PairData) -> list[Path]:
        run = Path(self.settings.checkpoint_dir).parent
        return [folder / reference.FOLDER for folder in (Path(rows.files[0]).parent, run)]

    def _measure_reference(self, rows: pairs.PairData) -> np.ndarray:
        """Sums of log-probabilities of each answer, (pairs, 2): by the model before training, without an adapter that is new."""
        filled = WholeBatches(rows, self.global_batch_size, pairs.without_answers)
        loader = DataLoader(filled, self.global_batch_size, collate_fn=self.collate_fn,
                            num_workers=min(8, -(-len(rows) // self.global_batch_size)))  # fmt: skip
        trained, found = self.settings.model, []
        for batch in tqdm(loader, desc="reference"):
            data = self._make_data(batch, no_lora_adapter=trained.lora_rank > 0 and not trained.lora_adapter,
                                   compute_loss=False)  # fmt: skip
            log_probs = self.training_client.infer_batch(data).get()["log_probs"]
            lengths = batch["input_ids"].offsets().diff()
            # The tokens of a filler are those of the row before it, so its sums are not needed.
            found.append(sum_answers(log_probs.values(), batch["loss_mask"].values(), lengths)[0])
        sums = torch.cat(found).view(-1, pairs.PAIR).numpy()
        return np.ascontiguousarray(sums[filled.places()])

    def _make_data(self, batch: Mapping[str, Any], **more: Any) -> Any:
        """A batch with what VeRL's engine reads beside the tensors."""
        config = self.config
        meta = {
            "use_remove_padding": config.model.use_remove_padding, "use_dynamic_bsz": config.data.use_dynamic_bsz,
            "max_token_len_per_gpu": config.data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": config.data.micro_batch_size_per_gpu,  # groups, which are pairs
            "force_group_size": pairs.PAIR, "temperature": 1.0, "pad_mode": config.data.pad_mode,
            "global_batch_size": self.global_batch_size * pairs.PAIR,
            "pad_token_id": self.model_config.tokenizer.pad_token_id, "batch_pairs": pairs.count_pairs(batch),
        }  # fmt: skip
        return tu.get_tensordict(tensor_dict=dict(batch), non_tensor_dict=meta | more)

    def fit(self) -> None:
        """Train until the last step, with validations and checkpoints on the way."""
        names = ("project_name", "experiment_name")
        tracking = Tracking(**{name: self.config.trainer[name] for name in names},
                            default_backend=self.config.trainer.logger,
                            config=OmegaConf.to_container(self.config, resolve=True))  # fmt: skip
        for step, batch in self._steps():
            is_last = step >= self.total_training_steps
            tracking.log(data=self._train_step(batch, step), step=step)
            measured = None
            if self.val_dataloader is not None and (is_last or is_due(self.test_freq, step)):
                measured = self._validate()
                tracking.log(data=measured, step=step)
            if is_last or is_due(self.save_freq, step):
                if measured:
                    write_held_out(Path(self.settings.checkpoint_dir), step, measured)
                self.ckpt_handler.save_checkpoint(step=step)
            if is_last:
                return

    def _steps(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The steps that are still to do, each with its batch. The loader continues where its checkpoint was written."""
        step = self.resume_global_step
        for epoch in range(step // self.steps_per_epoch, self.config.trainer.total_epochs):
            self.train_sampler.set_epoch(epoch)
            for batch in tqdm(self.train_dataloader, desc=f"epoch {epoch + 1}"):
                step += 1
                yield step, batch

    def _train_step(self, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
        """One optimizer step; returns its metrics."""
        began, data, lengths = time.monotonic(), self._make_data(batch), batch["input_ids"].offsets().diff()
        tu.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=NonTensorData(lengths.tolist()))
        ranks = max(self.training_client._query_dispatch_info("train")) + 1
        if self.config.trainer.balance_batch and ranks > 1:
            data = tu.index_select_tensor_dict(data, pairs.balance_pairs(lengths, ranks))
        if step == self.start_profile_step:
            self.training_client.start_profile()
        metrics = tu.get(self.training_client.train_batch(data).get(), "metrics")
        if step == self.end_profile_step:
            self.training_client.stop_profile()
        sums = collect_sums(metrics)
        named = {f"train/{name}": metrics[name] for name in ("loss", "grad_norm", "lr", "mfu")}
        rest = {name: value for name, value in metrics.items() if name.startswith("perf/")}
        return {**rest, **named, **average_pairs(sums, "train"), "train/global_tokens": int(lengths.sum()),
                GLOBAL_STEP: step, TIME_OF_STEP: time.monotonic() - began}  # fmt: skip

    def _validate(self) -> dict[str, float]:
        """The means over all held-out pairs."""
        totals: dict[str, float] = {}
        loss = 0.0
        for batch in self.val_dataloader:
            metrics = tu.get(self.training_client.infer_batch(self._make_data(batch)).get(), "metrics")
            sums = collect_sums(metrics)
            loss += metrics["loss"] * sums["pairs"]
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        return {VALIDATION_LOSS.key: loss / max(totals["pairs"], 1.0), **average_pairs(totals, "val")}


def is_due(frequency: int, step: int) -> bool:
    """Whether something that is done every so many steps is done after this one."""
    return bool(frequency > 0 and step % frequency == 0)


def collect_sums(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The sums of `measure_pairs` over all micro batches of all ranks, which VeRL returns as a list of each rank's list."""
    found = {name: metrics[name] for name in (*AVERAGED, "pairs", "kl", "tokens") if name in metrics}
    return {name: float(sum(_flatten(values))) for name, values in found.items()}


def _flatten(values: Any) -> Iterator[float]:
    return chain.from_iterable(map(_flatten, values)) if isinstance(values, list) else iter((values,))


def average_pairs(sums: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Means of a pair, and of a token for the KL divergence, by the names of their metrics."""
    found = {f"{prefix}/{name}": sums[name] / max(sums["pairs"], 1.0) for name in AVERAGED}
    return found | ({f"{prefix}/kl": sums["kl"] / max(sums["tokens"], 1.0)} if "kl" in sums else {})
