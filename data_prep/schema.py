"""Column schemas: the item that sources yield, and the two kinds of row that VeRL reads.

All are plain Arrow without Hugging Face metadata: list features written by one version of `datasets` have been
unreadable in another.
"""

from __future__ import annotations

import pyarrow as pa

ITEM = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string()),  # the gold: a final answer, or JSON with tests for code
        pa.field("solution", pa.string()),  # worked solution as the source has it; null where there is none
        pa.field("difficulty", pa.float64()),
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
    ]
)
RL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", EXTRA_INFO),
    ]
)
SFT = pa.schema(
    [("data_source", pa.string()), ("messages", MESSAGES), ("ability", pa.string()), ("extra_info", EXTRA_INFO)]
)


def is_sft(split: str) -> bool:
    """Whether a split of this name holds SFT rows (`messages`) instead of RL rows (`prompt` and gold)."""
    return split.startswith("sft_")


def of_split(split: str) -> pa.Schema:
    """The Parquet schema of a split."""
    return SFT if is_sft(split) else RL
