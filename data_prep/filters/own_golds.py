"""Golds under a reward of the user's own: each is graded as if a model had given it, where the prompt asks for the answer."""

import threading

from data_prep.filters.case import Case
from data_prep.schema import EXTRA_INFO
from reward_fns.own import OwnReward, RewardError, render_gold

EXAMPLES = 3


class OwnGolds:
    """The golds of one source. `mark` says where the prompt asks for the answer: hashes, boxed, tag, code or plain."""

    def __init__(self, reward: OwnReward, mark: str):
        self.reward, self.mark = reward, mark
        self.graded, self.low = 0, list[str]()  # golds, and those that score no more than an empty answer
        self._empty: float | None = None
        self._lock = threading.Lock()

    def explain_failure(self, case: Case) -> str | None:
        """Why the reward cannot grade against a gold, or None. A low score is counted, and is not a reason to drop a row:
        a reward may pay for length or form alone. Of code only an empty answer is graded, since its gold is tests."""
        if case.answer is None:
            return None
        facts = {**dict.fromkeys(field.name for field in EXTRA_INFO), "split": "", "index": 0, "answer_mark": self.mark}

        def score(response: str) -> float:
            return float(self.reward.grade(case.data_source, response, case.answer, facts)["score"])

        try:
            if case.ability == "code":
                score("")
                return None
            found = score(render_gold(case.answer, self.mark))
            empty = score("") if self._empty is None else self._empty
        except RewardError as error:
            return f"{self.reward.shown}: {error}"
        with self._lock:
            self._empty, self.graded = empty, self.graded + 1
            if found <= empty:
                self.low.append(case.answer[:60])
        return None

    def summary(self) -> str:
        """What to say of golds that earn nothing; "" where there are none."""
        if not self.low:
            return ""
        share = f"all {self.graded}" if len(self.low) == self.graded else f"{len(self.low)} of {self.graded}"
        shown = ", ".join(map(repr, self.low[:EXAMPLES]))
        return (f"{share} golds score no more than an empty answer under {self.reward.shown}, e.g. {shown}: "
                "correct the reward or the golds, unless it pays for something else")  # fmt: skip
