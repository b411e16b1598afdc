"""Losses of preference optimization: pure functions of the log-probabilities of a better and a worse answer.

A loss sees a pair through `Answers`: of each chosen and each rejected answer the sum of the log-probabilities of its tokens
under the model and under the reference, and how many tokens there are. Tensors have the shape (pairs,). Logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Answers:
    """One side of some pairs: `log_probs` and `reference` are sums over the `tokens` of each answer, (pairs,)."""

    log_probs: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def log_ratios(self) -> Tensor:
        """log pi(y|x) - log pi_ref(y|x), summed over the tokens."""
        return self.log_probs - self.reference

    @property
    def mean_log_probs(self) -> Tensor:
        """The mean log-probability of a token."""
        return self.log_probs / self.tokens


@dataclass(frozen=True)
class PreferenceLoss:
    """Which loss, and its numbers. It travels to the workers of VeRL, so it holds nothing else.

    - `beta`: how strongly a difference counts; larger values keep the model closer to the reference.
    - `label_smoothing`: the share of pairs that are taken to be labelled the wrong way round. IPO does not have it.
    - `nll_weight`: the weight of the negative log-likelihood of the chosen answer.
    - `target_margin`: gamma of SimPO, the margin that a pair should reach.
    """

    name: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_weight: float = 0.0
    target_margin: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of a reference are read."""
        return self.name not in WITHOUT_REFERENCE

    def scores(self, answers: Answers) -> Tensor:
        """What a loss compares of a chosen and of a rejected answer, without beta, (pairs,)."""
        return SCORES[self.name](answers)

    def margins(self, chosen: Answers, rejected: Answers) -> Tensor:
        """beta times the difference of the scores: the implicit reward of the chosen answer over that of the rejected one."""
        return self.beta * (self.scores(chosen) - self.scores(rejected))

    def per_pair(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The loss of each pair, (pairs,)."""
        differences = self.scores(chosen) - self.scores(rejected)
        if self.name == "ipo":
            loss = ipo_loss(differences, self.beta)
        else:
            loss = sigmoid_loss(self.beta * differences - self.target_margin, self.label_smoothing)
        return loss + self.nll_weight * -chosen.mean_log_probs if self.nll_weight else loss


def sum_of_log_ratios(answers: Answers) -> Tensor:
    """The score of DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""
    return answers.log_ratios


def mean_log_ratio(answers: Answers) -> Tensor:
    """The score of length-normalised DPO (Tulu 3, arXiv 2411.15124, section 5.1), which does not grow with length.

    IPO takes it, too. Its paper regresses on the log-ratio of a whole answer; TRL takes the mean on its authors' advice.
    """
    return answers.log_ratios / answers.tokens


def mean_log_probability(answers: Answers) -> Tensor:
    """The score of SimPO (Meng et al. 2024, arXiv 2405.14734, equation 4), which has no reference."""
    return answers.mean_log_probs


SCORES: dict[str, Callable[[Answers], Tensor]] = {
    "sigmoid": sum_of_log_ratios,
    "sigmoid_norm": mean_log_ratio,
    "ipo": mean_log_ratio,
    "simpo": mean_log_probability,
}
WITHOUT_REFERENCE = ("simpo",)


def sigmoid_loss(logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid of the logits; with a share of wrong labels as conservative DPO has it (Mitchell 2023, equation 3).

    Args:
        logits: beta times the difference of the scores, less the target margin, (pairs,).
        label_smoothing: between 0 and 0.5.
    """
    if not label_smoothing:
        return -logsigmoid(logits)
    return -logsigmoid(logits) * (1 - label_smoothing) - logsigmoid(-logits) * label_smoothing


def ipo_loss(differences: Tensor, beta: float) -> Tensor:
    """The squared distance to 1 / (2 beta) (Azar et al. 2023, arXiv 2310.12036, equation 17, whose tau is beta here)."""
    return (differences - 1 / (2 * beta)) ** 2


def sum_answers(log_probs: Tensor, loss_mask: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the log-probabilities of the answers in packed sequences, and the tokens of each answer.

    Args:
        log_probs: (tokens,). Place i has the log-probability of token i + 1, as VeRL gives them.
        loss_mask: (tokens,). 1 at the tokens of an answer, of which the first of a sequence is none.
        lengths: (sequences,). The tokens of each sequence.

    Returns:
        Two tensors of the shape (sequences,), in fp32 and int64.
    """
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    answered = torch.roll(loss_mask, shifts=-1).bool()  # the first token of the next sequence is not of an answer
    values = torch.where(answered, log_probs.float(), 0.0)
    empty = torch.zeros(len(lengths), dtype=torch.float32, device=log_probs.device)
    counts = torch.zeros(len(lengths), dtype=torch.long, device=log_probs.device)
    return empty.index_add(0, sequence, values), counts.index_add(0, sequence, answered.long())


def split_pairs(log_probs: Tensor, reference: Tensor | None, tokens: Tensor) -> tuple[Answers, Answers, Tensor]:
    """Chosen and rejected answers of sequences in which they take turns, and which pairs count.

    A pair without a token on one side does not count: it fills up a batch, or its answer was cut off. Its token count is 1, so
    that nothing is divided by 0. All arguments have the shape (2 x pairs,), and all results (pairs,).
    """
    counts = (tokens[0::2] > 0) & (tokens[1::2] > 0)
    known = torch.zeros_like(log_probs) if reference is None else reference.to(log_probs)
    at_least_one = tokens.clamp(min=1)
    chosen, rejected = (Answers(log_probs[side::2], known[side::2], at_least_one[side::2]) for side in (0, 1))
    return chosen, rejected, counts


def measure_pairs(loss: PreferenceLoss, chosen: Answers, rejected: Answers, counts: Tensor) -> dict[str, float]:
    """Sums over the pairs that count, from which `train/` and `val/` metrics are made; `pairs` is their number.

    `kl` sums the log-ratio of reference and model over the tokens of both answers, and `tokens` is the number of these. Their
    quotient is the k1 estimate (Schulman 2020, "Approximating KL divergence") of KL(reference || model) a token, in nats. It is
    unbiased only where the answers were sampled from the reference, and it may be negative.
    """
    with torch.no_grad():
        margins = loss.margins(chosen, rejected)
        both = torch.cat([chosen.tokens, rejected.tokens])
        figures: dict[str, Tensor] = {
            "pairs": counts,
            "margin": margins,
            "accuracy": margins > 0,
            "chosen_logp": chosen.mean_log_probs,
            "rejected_logp": rejected.mean_log_probs,
        }
        found = {name: _sum_where(counts, values) for name, values in figures.items()}
        if loss.needs_reference:
            ratios = torch.cat([chosen.log_ratios, rejected.log_ratios])
            found |= {"kl": _sum_where(counts.repeat(2), -ratios), "tokens": _sum_where(counts.repeat(2), both)}
    return found


def _sum_where(counts: Tensor, values: Tensor) -> float:
    return float(torch.where(counts, values.float(), 0.0).sum())


def preference_loss(loss: PreferenceLoss, model_output: Any, data: Any, dp_group: Any = None) -> tuple[Tensor, Any]:
    """The loss of a micro batch as VeRL's engine calls it, and the sums of `measure_pairs`.

    Args:
        loss: what to compute.
        model_output: has `log_probs`, nested (sequences, tokens).
        data: the micro batch, in which chosen and rejected sequences take turns. `batch_pairs` pairs of the whole batch count.
        dp_group: not used; VeRL passes it.

    Returns:
        The share of this micro batch in the mean over all pairs that count, times the ranks that share the data, over which FSDP
        averages gradients.
    """
    log_probs, mask = model_output["log_probs"], data["loss_mask"]
    sums, tokens = sum_answers(log_probs.values(), mask.values(), mask.offsets().diff())
    chosen, rejected, counts = split_pairs(sums, data.get("reference_log_probs", None), tokens)
    losses = torch.where(counts, loss.per_pair(chosen, rejected), 0.0)
    share = losses.sum() / max(float(data["batch_pairs"]), 1.0) * data["dp_size"]
    return share, measure_pairs(loss, chosen, rejected, counts)
