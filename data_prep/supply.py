"""The rows that a split can take, and how they became so few."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from data_prep.errors import Problem
from data_prep.losses import switch_off
from data_prep.mix import Mix, SplitSpec, Stage
from data_prep.pool import Pool
from data_prep.schema import TEST, row_kind
from data_prep.sources.synthesized import SYNTHESIZED

READ, PASS, DIFFICULT = "rows read", "pass the filters", "have the difficulty"
HAVE, APART, ONCE = "have {}", "are not in {}", "ask another question"


class Supply:
    """The rows of the pool that are free for a split. `steps` are masks of the rows that are left after each step on the way,
    by what they have in common; `taken` are the questions of splits that it must not share with, by name."""

    def __init__(self, mix: Mix, split: SplitSpec, pool: Pool, taken: Mapping[str, np.ndarray]):
        self.split, self.pool, self.sources, self.kind = split, pool, list(mix.sources), row_kind(split.name)
        self.specs = mix.sources
        uses = [mix.uses_of(name).kinds.get(self.kind.name, 0) for name in self.sources]
        self.uses = np.array(uses, dtype=np.uint8)
        left = pool.good & (pool.spoiled & self.uses[pool.source] == 0)
        self.steps = {READ: np.ones(len(pool), dtype=bool), PASS: left}
        for column in self.kind.needs:
            left = left & getattr(pool, f"has_{column}")
            self.steps[HAVE.format(column)] = left
        for other, keys in taken.items():
            left = left & ~np.isin(pool.key, keys)
            self.steps[APART.format(other)] = left
        if self.kind.once_a_question and split.name != TEST:
            rows = np.flatnonzero(left)
            left = np.zeros_like(left)
            left[rows[np.unique(pool.key[rows], return_index=True)[1]]] = True
            self.steps[ONCE] = left
        self.free = left.copy()

    def within(self, stage: Stage) -> np.ndarray:
        """The rows whose difficulty a stage takes. A mask."""
        if stage.difficulty is None:
            return np.ones(len(self.pool), dtype=bool)
        low, high = stage.difficulty
        return (self.pool.difficulty >= low) & (self.pool.difficulty <= high)

    def explain_nothing(self) -> Problem:
        """Why the split is empty."""
        counts = {name: self._count_steps(name, self.split.curriculum) for name in sorted(self.split.source_names())}
        what = "; ".join(f"{name}: {_describe_steps(steps)}" for name, steps in counts.items())
        # One source without rows empties the split, since weights are kept.
        empty = {name: steps for name, steps in counts.items() if not list(steps.values())[-1]}
        remedies = [self._find_remedy(name, steps) for name, steps in (empty or counts).items()]
        if not empty:
            remedies = [f"raise splits.{self.split.name}.tokens: not one row fits into it"]
        return Problem(f"mix.splits.{self.split.name}", f"gets no row ({what})", "\n".join(dict.fromkeys(remedies)))

    def explain_too_few(self, stage: Stage, source: str, wanted: int, found: int) -> Problem:
        """Why a stage gets `found` rows of a source in place of those that it asks for."""
        name, steps = self.split.name, self._count_steps(source, (stage,))
        what = f"asks for {wanted} rows of {source}; {found} unused ones are left ({_describe_steps(steps)})"
        remedy = self._find_remedy(source, steps)
        if name != self.kind.training_split:  # what it leaves is what is trained on
            remedy += f", or lower splits.{name}.rows"
        elif found and not self.split.stages:
            fewer = int(found / stage.sources[source] * sum(stage.sources.values()) + 1e-9)
            remedy += f"\nor take what is left: splits.{name}.rows={fewer}"
        return Problem(f"mix.splits.{name}" + (f", stage {stage.name}" if stage.name else ""), what, remedy)

    def _count_steps(self, source: str, stages: Sequence[Stage]) -> dict[str, int]:
        """The rows of a source that are left after each step."""
        mine = self.pool.source == self.sources.index(source)
        counts = {step: int((mine & rows).sum()) for step, rows in self.steps.items()}
        if all(stage.difficulty is not None for stage in stages):
            fits = np.logical_or.reduce([self.within(stage) for stage in stages if source in stage.sources])
            counts[DIFFICULT] = int((mine & list(self.steps.values())[-1] & fits).sum())
        return counts

    def _find_remedy(self, source: str, counts: Mapping[str, int]) -> str:
        """What helps against the step that costs most rows."""
        split, steps = self.split.name, list(counts)
        losses = [before - after for before, after in pairwise(counts.values())]
        worst = steps[1 + int(np.argmax(losses))] if any(losses) else READ
        if worst == READ:
            return f"give source {source} more rows" if counts[READ] else f"source {source} has no rows: see its file"
        if worst == PASS:
            number = self.sources.index(source)
            drops = Counter(self.pool.count_drops(number)) + Counter(
                self.pool.count_drops(number, int(self.uses[number]))
            )
            ((reason, count),) = drops.most_common(1)
            if reason == "duplicate" and self.kind.once_a_question:
                return f"give source {source} more questions: {count} of its rows repeat one"
            return f"{count} are dropped as {reason}: {switch_off(reason, source)}"
        if worst == DIFFICULT:
            return f"widen the difficulty of {split}: {self._describe_difficulty(source)}"
        for column in self.kind.needs:
            if worst == HAVE.format(column):
                return self._say_how_to_give(column, source, split)
        if worst == ONCE:
            return f"{split} takes one of several rows with the same question: give source {source} more questions"
        other = next(name for name in self.steps if name == worst).removeprefix(APART.format(""))
        trained = all(name == row_kind(name).training_split for name in (split, other))  # the others are held out
        sharing = f", or share questions with it: splits.{split}.may_share_with=[{other}]" if trained else ""
        return f"lower splits.{other}.rows{sharing}"

    def _say_how_to_give(self, column: str, source: str, split: str) -> str:
        if column == "rejected" and self.specs[source].kind == SYNTHESIZED.kind:
            return f"add rows: pairs to source {source}"
        return f"map columns.{column} of source {source} to a column of it, or take {source} out of {split}"

    def _describe_difficulty(self, source: str) -> str:
        level = self.pool.difficulty[self.pool.source == self.sources.index(source)]
        level = level[~np.isnan(level)]
        if not len(level):
            return f"source {source} has none, and columns.difficulty maps one"
        return f"source {source} has {level.min():g} to {level.max():g}"


def _describe_steps(counts: Mapping[str, int]) -> str:
    """E.g. "600 rows read, 40 pass the filters"; a step that loses nothing is left out."""
    steps = list(counts.items())
    lossy = [(step, after) for (_, before), (step, after) in pairwise(steps) if after < before]
    return ", ".join(f"{count} {step}" for step, count in [steps[0], *lossy])
