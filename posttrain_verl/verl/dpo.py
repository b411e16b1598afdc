"""Direct preference optimization and its kin, on VeRL's `sft_trainer_engine` and Ray. VeRL 0.9.1 has no such trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from posttrain_verl.terminal.problem import Problem, one_of, warning
from posttrain_verl.verl.job import Batch, counted
from posttrain_verl.verl.metrics import CHOSEN_LOG_PROBABILITY, HELD_OUT_PAIR_ACCURACY, PAIR_ACCURACY, Metric
from posttrain_verl.verl.row_terms import RowLimit, RowRule
from posttrain_verl.verl.settings import Setting, SftModel
from posttrain_verl.verl.sft import SftSettings, SftStage
from posttrain_verl.verl.stage import is_number, register

if TYPE_CHECKING:  # torch takes time, and most checks do not need it
    from posttrain_verl.verl.dpo_losses import PreferenceLoss


@dataclass(frozen=True)
class Loss:
    """A loss of posttrain_verl/verl/dpo_losses.py: what it is called, and between which values of beta published runs lie."""

    name: str
    betas: tuple[float, float]
    has_reference: bool = True


# DPO: 0.01 (Zephyr) to 0.5 (the paper's summaries). Length-normalised: 5 (Tulu 3). SimPO: 2 to 10 (its authors' releases).
LOSSES = {
    "sigmoid": Loss("the sigmoid loss", (0.01, 0.5)),
    "ipo": Loss("IPO", (0.01, 1.0)),
    "sigmoid_norm": Loss("the length-normalised loss", (1.0, 15.0)),
    "simpo": Loss("SimPO", (1.0, 15.0), has_reference=False),
}
NUMBERS = ("beta", "label_smoothing", "nll_weight", "target_margin")  # of every loss
MOST_SMOOTHING = 0.5  # from here on a label says nothing, or the opposite


class PairModel(SftModel):
    """The model of preference optimization. The two sequences of a pair stay in one micro batch, whose size counts pairs."""

    group = 2


class DpoSettings(SftSettings):
    """The settings of preference optimization. `data.train_batch_size` and `data.micro_batch_size_per_gpu` count pairs."""

    model_types = (PairModel,)
    row_noun = "pair"
    missing_data_remedy = (
        "let a model write pairs: python -m posttrain_verl.synthesize mix={mix} run=RUN name={name}\n"
        "or give the path of a Parquet file that exists"
    )
    columns_remedy = (
        "docs/dpo.md lists the columns; data.prompt_key, data.chosen_key and data.rejected_key give them other names"
    )

    prompt_column = Setting[str]("data.prompt_key", default="prompt")
    chosen_column = Setting[str]("data.chosen_key", default="chosen")
    rejected_column = Setting[str]("data.rejected_key", default="rejected")
    loss = Setting[str]("preference.loss", default="sigmoid")
    beta = Setting[float]("preference.beta", default=0.1)
    label_smoothing = Setting[float]("preference.label_smoothing", default=0.0)
    nll_weight = Setting[float]("preference.nll_weight", default=0.0)
    target_margin = Setting[float]("preference.target_margin", default=0.0)

    def preference_loss(self) -> PreferenceLoss:
        """The loss that the workers compute."""
        from posttrain_verl.verl.dpo_losses import PreferenceLoss

        return PreferenceLoss(self.loss, float(self.beta), float(self.label_smoothing), float(self.nll_weight),
                              float(self.target_margin))  # fmt: skip

    @property
    def columns(self) -> dict[str, str]:
        return {self.prompt_column: "chat", self.chosen_column: "answer", self.rejected_column: "answer"}

    @property
    def conversations(self) -> list[tuple[str, ...]]:
        return [(self.prompt_column, self.chosen_column), (self.prompt_column, self.rejected_column)]

    @property
    def row_rules(self) -> tuple[RowRule, ...]:
        from posttrain_verl.verl.pair_rules import pair_rules

        return pair_rules(self.prompt_column, self.chosen_column, self.rejected_column)

    @property
    def row_limit(self) -> RowLimit:
        return RowLimit(self.key("max_length"), self.max_length, self.truncation == "error",
                        "cut, and do not end", f"{self.override('truncation', 'right')} to cut them")  # fmt: skip

    def batch(self) -> Batch:
        return self._count_batch(rollouts=PairModel.group, noun="sequence")

    def describe_step(self) -> str:
        return f"{counted(self.train_batch_size, 'pair')} = {counted(self.batch().sequences, 'sequence')} a step"

    def experiment_keys(self) -> tuple[str, ...]:
        return *super().experiment_keys(), *self.keys("loss", *NUMBERS)

    def training_problems(self) -> Iterator[Problem]:
        yield from super().training_problems()
        if self.loss not in LOSSES:
            yield Problem(f"{self.override('loss')} is not a loss", one_of(str(self.loss), list(LOSSES)))
        elif all(is_number(getattr(self, name)) for name in NUMBERS):  # check_values reports what is none
            yield from self._check_numbers(LOSSES[self.loss])
        if self.dataset_class:
            what = f"{self.key('dataset_class')} is not read: the data set of pairs is ours"
            yield Problem(what, self.override("dataset_class", None))

    def frequency_problems(self) -> Iterator[Problem]:
        yield from super().frequency_problems()
        both = self.save_every, self.validate_every
        if all(isinstance(each, int) and each > 0 for each in both) and both[0] % both[1]:
            what = f"{self.override('save_every')} with {self.override('validate_every')}: checkpoints without a validation"
            yield warning(f"{what} cannot be chosen as the best", self.override("validate_every", self.save_every))

    def _check_numbers(self, loss: Loss) -> Iterator[Problem]:
        low, high = loss.betas
        if odd := [name for name in NUMBERS if not math.isfinite(getattr(self, name))]:
            yield Problem(f"{', '.join(map(self.override, odd))}: not a finite number", "give a number")
            return
        if self.beta <= 0:
            effect = "every pair would be the same" if self.beta == 0 else "the rejected answers would be preferred"
            yield Problem(f"{self.override('beta')}: {effect}", self.override("beta", low))
        elif not low <= self.beta <= high:
            what = f"{self.override('beta')} is far from what runs with {self.override('loss')} ({loss.name}) use"
            yield warning(what, f"usual values lie between {low:g} and {high:g}")
        if not 0 <= self.label_smoothing < MOST_SMOOTHING:
            what = f"{self.override('label_smoothing')} is not a share of wrong labels below {MOST_SMOOTHING:g}"
            yield Problem(what, self.override("label_smoothing", 0.0))
        elif self.label_smoothing and self.loss == "ipo":
            yield warning(f"{self.key('label_smoothing')} is not read by IPO", self.override("label_smoothing", 0.0))
        if self.target_margin and loss.has_reference:
            what = f"{self.override('target_margin')} is SimPO's, and {self.override('loss')} is trained"
            yield Problem(what, f"{self.override('target_margin', 0.0)}, or {self.override('loss', 'simpo')}")
        if self.target_margin < 0:
            what = f"{self.override('target_margin')} is content with pairs that are the wrong way round"
            yield Problem(what, self.override("target_margin", 0.0))
        if self.nll_weight < 0:
            yield Problem(
                f"{self.override('nll_weight')} unlearns the chosen answers", self.override("nll_weight", 0.0)
            )

    def rehearsal_overrides(self, steps: int, reward: str) -> list[str]:
        pairs = {"train_batch_size": REHEARSED_PAIRS}
        micro_batches = {"micro_batch_size": REHEARSED_PAIRS // 2}
        return [
            *super().rehearsal_overrides(steps, reward),
            *self.assign_all(pairs),
            *PairModel.assign_all(micro_batches),
        ]


REHEARSED_PAIRS = 4  # of a step
HELD_OUT_PAIRS = Metric(HELD_OUT_PAIR_ACCURACY, "Held-out pair accuracy", "val accuracy", rises=True,
                        why="The share of held-out pairs whose chosen answer has the higher implicit reward.")  # fmt: skip
OWN_METRICS = (
    HELD_OUT_PAIRS,
    Metric(PAIR_ACCURACY, "Pair accuracy", "accuracy", rises=True,
           why="At 1 in the first steps, something such as length tells the pairs apart."),
    Metric("train/margin", "Reward margin", "margin", rises=True,
           why="The implicit reward of the chosen answer over that of the rejected one."),
    Metric(CHOSEN_LOG_PROBABILITY, "Log-probability of chosen answers", "chosen logp", rises=True,
           why="In nats a token. It may fall a little; if it keeps falling, the model unlearns what it should prefer."),
    Metric("train/rejected_logp", "Log-probability of rejected answers", "rejected logp",
           why="In nats a token. It should fall faster than that of the chosen answers."),
    Metric("train/kl", "KL divergence from the reference", "kl",
           why="The k1 estimate on the tokens of the pairs, in nats. It is unbiased where the reference wrote them."),
)  # fmt: skip


class DpoStage(SftStage):
    """Preference optimization."""

    name = "dpo"
    settings_type = DpoSettings
    usual_lr = (1e-7, 1e-6)  # Tulu 3: 5e-7 (8B) and 2e-7 (70B); SimPO: 3e-7 to 1e-6
    usual_lora_lr = (1e-6, 1e-5)
    headline = HELD_OUT_PAIRS
    own_metrics = OWN_METRICS
    aligns = True
    decides_checkpoint = HELD_OUT_PAIRS

    def train(self, config: DictConfig) -> None:
        from posttrain_verl.verl.trainers import train_dpo

        train_dpo(config, self)

    def describe_training(self, settings: DpoSettings) -> str:  # type: ignore[override]
        loss = LOSSES.get(settings.loss)
        return f"{self.name.upper()} with {loss.name if loss else settings.loss}, {settings.override('beta')}"

    def hardware_lists(self, settings: DpoSettings) -> list[str]:  # type: ignore[override]
        return ["sft", self.name]


register(DpoStage())
