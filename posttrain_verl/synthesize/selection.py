"""From graded answers to solutions, pairs and pass rates. Pure functions: the same answers give the same choice.

Solutions are the right answers of a question that differ from each other, as in rejection-sampling fine-tuning (Yuan et al.
2023, arXiv:2308.01825). A pair holds a right and a wrong answer to one question. Where right answers are the shorter ones, a
model trained on pairs learns to be short (Park et al. 2024, arXiv:2403.19159), so pairs are matched by length.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from posttrain_verl.significance import share

Choice = Literal["different", "shortest", "random"]
SHINGLE = 2  # words that are compared together, so that another order is another text
_WORD = re.compile(r"\w+|[^\w\s]")
Z = 1.96  # of a two-sided test at 5 %
CLOSE = 0.3  # answers whose lengths differ by at most this share of the longer one are about as long


@dataclass(frozen=True)
class Graded:
    """One answer, `tokens` long. `is_right` is None where the verifier came to no verdict, or where an endpoint gave no text, of
    which `no_text` is the reason. `flaw` is the reason why a right answer is not shown to a model, "" for none, and `detail` says
    more."""

    id: str
    sample: int
    text: str
    tokens: int
    is_right: bool | None
    cut_off: bool = False
    flaw: str = ""
    detail: str = ""
    no_text: str = ""


@dataclass(frozen=True)
class Rules:
    """What to select: at most `keep` solutions and `pairs` pairs a question. Answers whose similarity is `near_duplicate` or
    more count as one. `reject_cut_off` and `reject_undecided` let pairs reject answers that nobody knows to be wrong."""

    keep: int = 4
    choice: Choice = "different"
    near_duplicate: float = 0.8
    pairs: int = 1
    match_lengths: bool = True
    reject_cut_off: bool = False
    reject_undecided: bool = False
    seed: int = 0


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard's similarity of two sets of shingles, 0 to 1."""
    return len(one & other) / len(one | other) if one or other else 1.0


def shingles(text: str) -> frozenset[str]:
    """The runs of SHINGLE words and signs of a text; a shorter text is one run."""
    words = _WORD.findall(text.lower())
    return frozenset(" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1)))


def hash_fraction(*parts: object) -> float:
    """A number from 0 to 1 that follows from the parts alone."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def drop_near_duplicates(answers: Iterable[Graded], threshold: float) -> list[Graded]:
    """The answers that differ from every one before them.

    A question has few answers, so all are compared exactly. 0 switches it off.
    """
    kept: list[tuple[frozenset[str], Graded]] = []
    for answer in answers:
        mine = shingles(answer.text)
        if not threshold or all(similarity(mine, other) < threshold for other, _ in kept):
            kept.append((mine, answer))
    return [answer for _, answer in kept]


def choose_solutions(answers: Sequence[Graded], rules: Rules) -> tuple[list[Graded], Counter[str]]:
    """At most `keep` right answers to one question in the order of the choice, and how many were left out, by reason."""
    right = [answer for answer in answers if answer.is_right]
    usable = [answer for answer in right if not answer.flaw and not answer.cut_off]
    left_out = Counter(answer.flaw or "cut_off" for answer in right if answer.flaw or answer.cut_off)
    distinct = drop_near_duplicates(sorted(usable, key=_preference(rules)), rules.near_duplicate)
    chosen = (_most_different(distinct, rules.keep) if rules.choice == "different" else distinct)[: rules.keep]
    left_out += Counter(near_duplicate=len(usable) - len(distinct), beyond_keep=len(distinct) - len(chosen))
    return chosen, +left_out


def _preference(rules: Rules) -> Callable[[Graded], tuple[float, int]]:
    """The key by which answers are taken, the first first."""
    if rules.choice == "random":
        return lambda answer: (hash_fraction("solution", rules.seed, answer.id, answer.sample), answer.sample)
    return lambda answer: (answer.tokens, answer.sample)


def _most_different(answers: Sequence[Graded], most: int) -> list[Graded]:
    """The first answer, then each time the one that is least like any chosen one (farthest-first traversal, Gonzalez 1985)."""
    sets = [shingles(answer.text) for answer in answers]
    nearest = [0.0] * len(answers)  # the similarity to the chosen one that is most like it
    left, chosen = list(range(len(answers))), list[Graded]()
    while left and len(chosen) < most:
        best = min(left, key=lambda at: (nearest[at], at))
        left.remove(best)
        chosen.append(answers[best])
        for at in left:
            nearest[at] = max(nearest[at], similarity(sets[at], sets[best]))
    return chosen


@dataclass(frozen=True)
class Pair:
    """A right and a wrong answer to one question."""

    chosen: Graded
    rejected: Graded

    @property
    def gap(self) -> int:
        """By how many tokens the chosen answer is the longer one."""
        return self.chosen.tokens - self.rejected.tokens

    @property
    def is_close(self) -> bool:
        """Whether the answers are about as long."""
        return abs(self.gap) <= CLOSE * max(self.chosen.tokens, self.rejected.tokens)


@dataclass(frozen=True)
class Lengths:
    """How well length alone tells the chosen answers of `n` pairs from the rejected ones. Lengths are mean tokens. The chosen
    answer is the longer one in `longer` pairs, and the shorter one in `shorter`."""

    n: int
    chosen: float
    rejected: float
    difference: float
    longer: int
    shorter: int

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Lengths:
        n, gaps = len(pairs), [pair.gap for pair in pairs]
        chosen, rejected = (
            sum(side) / n if n else 0.0
            for side in ([pair.chosen.tokens for pair in pairs], [pair.rejected.tokens for pair in pairs])
        )
        longer, shorter = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
        return cls(n, round(chosen, 4), round(rejected, 4), round(chosen - rejected, 4), longer, shorter)


def choose_pairs(groups: Mapping[str, Sequence[Graded]], rules: Rules) -> tuple[list[Pair], Counter[str]]:
    """At most `pairs` pairs of each question, in the order of the questions, and what was left out, by reason.

    Each answer stands in one pair. Every question gets its first pair before any gets its second.
    """
    sides = {name: _sides(answers, rules) for name, answers in groups.items()}
    left_out: Counter[str] = Counter()
    for right, wrong in sides.values():
        left_out["no_right_answer" if wrong else "no_answer_to_pair"] += not right
        left_out["no_wrong_answer"] += bool(right and not wrong)
    order = sorted(sides, key=lambda name: (hash_fraction("pair", rules.seed, name), name))
    pairs: list[Pair] = []
    balance = (0, 0)  # of the pairs so far: the sum of the gaps, and of their signs
    for _ in range(rules.pairs):
        for name in order:
            right, wrong = sides[name]
            if right and wrong:
                pair = _next_pair(right, wrong, balance, rules)
                right.remove(pair.chosen)
                wrong.remove(pair.rejected)
                pairs.append(pair)
                balance = balance[0] + pair.gap, balance[1] + _sign(pair.gap)
    kept = balance_lengths(pairs) if rules.match_lengths else pairs
    left_out["told_by_length"] += len(pairs) - len(kept)
    place = {name: number for number, name in enumerate(groups)}
    return sorted(kept, key=lambda pair: (place[pair.chosen.id], pair.chosen.sample)), +left_out


def _sides(answers: Sequence[Graded], rules: Rules) -> tuple[list[Graded], list[Graded]]:
    """The answers that a pair may choose, and those that it may reject, without near duplicates, by their samples."""

    def may_reject(answer: Graded) -> bool:
        if answer.is_right or answer.no_text or not answer.text.strip():
            return False
        if answer.is_right is None and not rules.reject_undecided:
            return False
        return rules.reject_cut_off or not answer.cut_off

    right = [each for each in answers if each.is_right and not each.cut_off and not each.flaw]
    wrong = [each for each in answers if may_reject(each)]
    return drop_near_duplicates(right, rules.near_duplicate), drop_near_duplicates(wrong, rules.near_duplicate)


def _next_pair(right: Sequence[Graded], wrong: Sequence[Graded], balance: tuple[int, int], rules: Rules) -> Pair:
    """The pair of about equal lengths that brings the gaps so far nearest to a balance, in their signs first and then in their
    sum. A random one where lengths are not matched."""
    pairs = [Pair(one, other) for one in right for other in wrong]
    if not rules.match_lengths:
        return min(
            pairs, key=lambda pair: hash_fraction(rules.seed, pair.chosen.id, pair.chosen.sample, pair.rejected.sample)
        )
    total, signs = balance
    helpful = [pair for pair in pairs if pair.is_close and _sign(pair.gap) * _sign(signs) <= 0]
    return min(helpful or pairs, key=lambda pair: (abs(total + pair.gap) + abs(pair.gap), abs(pair.gap), pair.chosen.sample,
                                                   pair.rejected.sample))  # fmt: skip


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def balance_lengths(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without those of the largest gaps, until length no longer tells the sides apart.

    That is so once neither the sign test (is the chosen answer the longer one more often?) nor the paired t test (is it longer
    on average?) finds a difference at 5 %.
    """
    left = sorted(pairs, key=lambda pair: (pair.gap, pair.chosen.id, pair.chosen.sample))
    total, squares = sum(pair.gap for pair in left), sum(pair.gap**2 for pair in left)
    longer, shorter = sum(pair.gap > 0 for pair in left), sum(pair.gap < 0 for pair in left)
    while left:
        signs = longer - shorter
        if abs(signs) > Z * math.sqrt(longer + shorter):
            worst = left.pop() if signs > 0 else left.pop(0)
        elif abs(total) > Z * math.sqrt(squares):
            worst = left.pop() if total > 0 else left.pop(0)
        else:
            break
        total, squares = total - worst.gap, squares - worst.gap**2
        longer, shorter = longer - (worst.gap > 0), shorter - (worst.gap < 0)
    return left


@dataclass(frozen=True)
class Rate:
    """The pass rate of one question: `right` of `n` answers with a verdict, its 95 % interval, and how many had no verdict.

    `rate`, `low` and `high` are None where no answer has a verdict.
    """

    id: str
    n: int
    right: int
    undecided: int
    rate: float | None
    low: float | None
    high: float | None


def pass_rate(name: str, answers: Sequence[Graded]) -> Rate:
    """The pass rate of one question. An answer that was cut off has its verdict as any other."""
    verdicts = [answer.is_right for answer in answers if answer.is_right is not None]
    n, right = len(verdicts), sum(verdicts)
    return Rate(name, n, right, len(answers) - n, *(_interval(right, n) if n else (None, None, None)))


@lru_cache(maxsize=4096)
def _interval(right: int, n: int) -> tuple[float, float, float]:
    """A share with Wilson's interval."""
    found = share([1.0] * right + [0.0] * (n - right))
    return found.value, found.low, found.high


def is_validation(name: str, part: float, seed: int) -> bool:
    """Whether the pairs of a question are held out for validation: a share `part` of the questions is, by their ids."""
    return hash_fraction("validation", seed, name) < part
