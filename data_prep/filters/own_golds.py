"""Golds under a reward of the user's own: each is graded as if a model had given it, where the prompt asks for the answer.

For a few golds wrong answers are graded, too: a reward may raise for those alone.
"""

import threading
from collections.abc import Iterable

from data_prep.errors import Problem
from data_prep.filters.case import Case
from data_prep.schema import EXTRA_INFO
from reward_fns.own import OwnReward, RewardError, describe_call, render_gold, wrong_answers
from reward_fns.trial import is_of_network

EXAMPLES = 3
TRIED = 3  # golds of a source that wrong answers are graded for
NEARLY_ALL = 0.9  # of the golds: where the reward raises for so many, it is at fault and not the data


class OwnGolds:
    """The golds of one source. `mark` says where the prompt asks for the answer: hashes, boxed, tag, code or plain."""

    def __init__(self, reward: OwnReward, mark: str):
        self.reward, self.mark = reward, mark
        self.graded, self.low = 0, list[str]()  # golds, and those that score no more than an empty answer
        self.failed, self.first_failure = 0, ""  # golds that the reward raised for
        self.wrong_failure = ""  # what it raised for a wrong answer
        self._empty: float | None = None
        self._before: list[str] = []  # golds of earlier rows, which are wrong answers here
        self._lock = threading.Lock()

    def explain_failure(self, case: Case) -> str | None:
        """Why the reward cannot grade against a gold, or None. A low score is counted, and is not a reason to drop a row:
        a reward may pay for length or form alone. Of code only an empty answer is graded, since its gold is tests."""
        if case.answer is None:
            return None
        golds = [render_gold(case.answer, self.mark)] if case.ability != "code" else []
        scores, failure = self._score_all(case, [*golds, *([""] if self._empty is None or not golds else [])])
        with self._lock:
            self.graded += 1
            if failure:
                self.failed, self.first_failure = self.failed + 1, self.first_failure or str(failure)
                return f"{self.reward.shown}: {failure}"
            self._empty = scores[-1] if self._empty is None else self._empty
            if golds and scores[0] <= self._empty:
                self.low.append(case.answer[:60])
            before, is_tried = list(self._before), bool(golds) and len(self._before) < TRIED
            self._before += [case.answer] if is_tried else []
        if is_tried:
            self._try_wrong_answers(case, before)
        return None

    def _try_wrong_answers(self, case: Case, before: Iterable[str]) -> None:
        _, failure = self._score_all(case, wrong_answers(case.answer, self.mark, before))
        if failure and not any(map(is_of_network, failure.causes)):
            self.wrong_failure = self.wrong_failure or str(failure)

    def _score_all(self, case: Case, responses: Iterable[str]) -> tuple[list[float], RewardError | None]:
        """The scores of answers, up to one that fails. Its error says what the reward was called with."""
        facts = {**dict.fromkeys(field.name for field in EXTRA_INFO), "split": "", "index": 0, "answer_mark": self.mark}
        found = list[float]()
        for response in responses:
            try:
                found.append(float(self.reward.grade(case.data_source, response, case.answer, facts)["score"]))
            except RewardError as error:
                what = f"{error}, {describe_call(response, case.answer)}"
                return found, RewardError(error.fault, what, *error.causes[:1])
        return found, None

    def find_fault(self, source: str) -> Problem | None:
        """The fault of the reward itself, after all golds: it fails for nearly all of them, or for a wrong answer."""
        where = f"reward={self.reward.word}"
        if self.failed and self.failed >= NEARLY_ALL * self.graded:
            share = f"every gold of {source}" if self.failed == self.graded else f"{self.failed} of {self.graded} golds"
            what = f"your reward failed on {share}: {self.first_failure}"
            return Problem(where, what, "correct the reward, or name the column of the gold that it can read")
        if self.wrong_failure:
            what = f"your reward failed on a wrong answer: {self.wrong_failure}"
            return Problem(
                where, what, "return a score, such as 0.0, for any answer: a model writes wrong ones, and words"
            )
        return None

    def summary(self) -> str:
        """What to say of golds that earn nothing; "" where there are none."""
        if not self.low:
            return ""
        passed = self.graded - self.failed
        share = f"all {passed}" if len(self.low) == passed else f"{len(self.low)} of {passed}"
        shown = ", ".join(map(repr, self.low[:EXAMPLES]))
        return (f"{share} golds score no more than an empty answer under {self.reward.shown}, e.g. {shown}: "
                "correct the reward or the golds, unless it pays for something else")  # fmt: skip
