"""A model's own answers that `synthesize` has kept: right ones as solutions, or pairs of a right and a wrong one.

A folder of `synthesize` holds `sft_train.parquet`, `pairs_train.parquet` and `rates.parquet`. The last one has a row for each
question, with its bare text and its gold, under which the rows of the others are named `ID#SAMPLE`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data_prep.errors import DataError, Problem
from data_prep.manifest import read_manifest
from data_prep.schema import PAIRS, SFT
from data_prep.sources.source import Opened, Row, Source, SourceSpec, in_batches

KIND = "synthesized"
RATES = "rates.parquet"
RATES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),  # without the prompt around it
        ("answer", pa.string()),  # the gold
        ("data_source", pa.string()),
        ("ability", pa.string()),
        ("source", pa.string()),
        ("n", pa.int64()),  # answers with a verdict
        ("right", pa.int64()),
        ("undecided", pa.int64()),  # answers without one
        ("rate", pa.float64()),  # right / n; null where n is 0
        ("low", pa.float64()),  # its 95 % interval
        ("high", pa.float64()),
    ]
)
_MARK = "#"  # between the id of a question and the number of the sample


class SynthesizedSpec(SourceSpec):
    """The rows of `path`, a folder of `synthesize`, of one `ability`: solutions, or pairs. With `source` only those from that
    source of the mix that was asked."""

    path: str = Field(description="name the folder that synthesize wrote, such as data/NAME")
    rows: Literal["solutions", "pairs"] = "solutions"
    source: str | None = None
    unique: Literal["question", "row"] = "row"


def row_id(question: str, *samples: int) -> str:
    """The id of a row made of samples of a question."""
    return f"{question}{_MARK}{'-'.join(map(str, samples))}"


def _open_folder(spec: SynthesizedSpec) -> Opened:
    folder = Path(spec.path).expanduser()
    kind = PAIRS if spec.rows == "pairs" else SFT
    file = f"{kind.training_split}.parquet"
    manifest = read_manifest(folder)
    if file not in manifest["files"] or RATES not in manifest["files"]:
        what = f"{folder} has no {file if RATES in manifest['files'] else RATES}"
        raise DataError(Problem(f"source {spec.name}", what, "name a folder that synthesize wrote, with such rows"))
    origin = {"folder": str(folder), "files": {name: manifest["files"][name]["sha256"] for name in (file, RATES)}}
    return Opened(origin, in_batches(_items(spec, folder, file)))


def _items(spec: SynthesizedSpec, folder: Path, file: str) -> Iterator[Row]:
    """One item for each row of the file."""
    asked = {row["id"]: row for row in pq.read_table(folder / RATES).to_pylist()}
    for row in pq.read_table(folder / file).to_pylist():
        question = asked[row["extra_info"]["id"].rpartition(_MARK)[0]]
        if row["ability"] == spec.ability and spec.source in (None, question["source"]):
            yield {
                "id": f"{spec.name}/{row['extra_info']['id']}",
                "question": question["question"],
                "answer": question["answer"],
                "difficulty": None if question["rate"] is None else 1 - question["rate"],
                **_texts(row),
            }


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    if "messages" in row:
        return {"solution": row["messages"][-1]["content"]}
    return {"solution": row["chosen"][-1]["content"], "rejected": row["rejected"][-1]["content"]}


SYNTHESIZED = Source(
    kind=KIND,
    data_source="math/synthesized",
    licence="that of the model and of its questions",
    origin="answers of a model, kept by synthesize",
    open=_open_folder,
    spec=SynthesizedSpec,
    uses=("sft",),
    role="cot",
)
