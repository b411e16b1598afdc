"""Column schemas: the item that sources yield, and the kinds of row that VeRL reads.

A kind of row is one object of this file, and nobody else asks which kind it is. All schemas are plain Arrow without Hugging
Face metadata: list features written by one version of `datasets` have been unreadable in another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Messages = list[dict[str, str]]

ITEM = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string()),  # the gold: a final answer, or JSON with tests for code
        pa.field("solution", pa.string()),  # worked solution as the source has it; null where there is none
        pa.field("difficulty", pa.float64()),
        pa.field("rejected", pa.string()),  # a wrong solution to the same question; null where there is none
        pa.field("flaw", pa.string()),  # why the source itself cannot use the row; null for a good one
    ]
)

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
EXTRA_INFO = pa.struct(
    [
        ("split", pa.string()),
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("difficulty", pa.float64()),
        ("stage", pa.string()),
        ("answer_mark", pa.string()),  # what the prompt asks the answer to stand in (boxed, hashes, tag); null for none
    ]
)
# What of an item a flaw can spoil, as bits. Every row shows the question, so a spoiled question spoils the item.
QUESTION, ANSWER, SOLUTION = 1, 2, 4
PARTS = {"question": QUESTION, "answer": ANSWER, "solution": SOLUTION}
GOLD = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
EVALUATION = "eval"  # what a source of the test split must serve for
TEST = "test"  # the split of held-out questions; VeRL does not read it, `evaluate` does


@dataclass(frozen=True)
class RowKind:
    """A kind of row: what an item needs for it, how it is written, and how it is shown. Its splits are NAME_train and NAME_val.

    - `turns`: its columns of messages. Each turn is a role and the text that it says: `system`, `question`, `solution` (in the
      answer format of the mix), `answer` or `rejected`.
    - `needs`: what an item must have of `answer`, `solution` and `rejected`.
    - `use`: what a source must serve for, one of its `uses`.
    - `shown`: the columns that one after the other are the conversation; other columns of messages stand beside it.
    - `is_graded`: a reward grades what a model answers, so the gold is written, too.
    - `once_a_question`: of several solutions to one question a split takes one.
    """

    name: str
    turns: Mapping[str, Sequence[tuple[str, str]]]
    needs: tuple[str, ...]
    use: str
    shown: tuple[str, ...]
    is_graded: bool = False
    once_a_question: bool = False

    @property
    def training_split(self) -> str:
        return f"{self.name}_train"

    @property
    def validation_split(self) -> str:
        return f"{self.name}_val"

    def parts(self, writes_gold: bool) -> int:
        """The parts of an item that such a row uses. `writes_gold` says that rendering writes the gold below a solution."""
        texts = {text for turns in self.turns.values() for _, text in turns}
        gold = self.is_graded or "answer" in texts or (writes_gold and "solution" in texts)
        return QUESTION | (ANSWER if gold else 0) | (SOLUTION if "solution" in texts else 0)

    @property
    def schema(self) -> pa.Schema:
        """The columns of a Parquet of these rows."""
        gold = [("reward_model", GOLD)] if self.is_graded else []
        messages = [(column, MESSAGES) for column in self.turns]
        return pa.schema(
            [("data_source", pa.string()), *messages, ("ability", pa.string()), *gold, ("extra_info", EXTRA_INFO)]
        )

    def conversation(self, row: Mapping[str, Any]) -> Messages:
        """The conversation of a row."""
        return [turn for column in self.shown for turn in row[column]]

    def beside(self, row: Mapping[str, Any]) -> dict[str, Messages]:
        """What a row holds beside its conversation, by column."""
        return {column: row[column] for column in self.turns if column not in self.shown}

    def gold(self, row: Mapping[str, Any]) -> str | None:
        """The gold answer that a row is graded by; None where nothing is graded."""
        return row["reward_model"]["ground_truth"] if self.is_graded else None


_KINDS: dict[str, RowKind] = {}


def register(kind: RowKind) -> RowKind:
    """Make a kind of row known: its splits can be declared, built and looked at."""
    _KINDS[kind.name] = kind
    return kind


def split_names() -> tuple[str, ...]:
    """Every split, in the order in which they are filled.

    Held-out rows are chosen first, so that a training split can never take a question from them.
    """
    held_out = [kind.validation_split for kind in _KINDS.values()]
    return (TEST, *held_out, *(kind.training_split for kind in _KINDS.values()))


def row_kind(split: str) -> RowKind:
    """The kind of the rows of a split. Questions of the test split are those of RL."""
    return _KINDS.get(split.rpartition("_")[0], RL)


def use_of(split: str) -> str:
    """What the sources of a split must serve for."""
    return EVALUATION if split == TEST else row_kind(split).use


_ASKED = (("system", "system"), ("user", "question"))
RL = register(RowKind("rl", {"prompt": _ASKED}, needs=("answer",), use="rl", shown=("prompt",), is_graded=True,
                      once_a_question=True))  # fmt: skip
SFT = register(RowKind("sft", {"messages": (*_ASKED, ("assistant", "solution"))}, needs=("solution",), use="sft",
                       shown=("messages",)))  # fmt: skip
# A better and a worse answer to one question, for preference training.
PAIRS = register(RowKind("pairs", {"prompt": _ASKED, "chosen": (("assistant", "solution"),),
                                   "rejected": (("assistant", "rejected"),)},
                         needs=("solution", "rejected"), use="sft", shown=("prompt", "chosen")))  # fmt: skip
