"""Wrong mixes and damaged data: a clear error with source, row and remedy, and never another exception."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep
from data_prep import DataError


def split(**sources):
    return {"rl_train": {"sources": sources}}


def errors(build, **config) -> str:
    with pytest.raises(DataError) as caught:
        build(**config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is null"),
        ([1, 2], "is list"),
        ({"a": 1}, "is dict"),
        (True, "is bool"),
        ("", "is empty"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_cell_of_the_wrong_kind_names_source_row_and_remedy(clean, source, build, value, said):
    rows = clean(5)
    rows[3]["question"] = value
    text = errors(build, sources={"own": source("own", rows)}, splits=split(own=1))
    assert "source own, row 3" in text and "bad_rows: drop" in text
    assert said in text or "is empty" in text


def test_bad_rows_can_be_dropped_and_are_counted(clean, source, build):
    rows = clean(5)
    rows[3]["question"] = None
    manifest, _ = build(sources={"own": source("own", rows, bad_rows="drop")}, splits=split(own=1))
    assert manifest["sources"]["own"]["drops"] == {"bad_row": 1}


def test_missing_column_and_unknown_mapping(clean, source, build):
    text = errors(build, sources={"own": source("own", clean(3), columns={"question": "quest"})}, splits=split(own=1))
    assert "no column 'quest'" in text and "question" in text
    text = errors(
        build,
        sources={"own": source("own", clean(3), columns={"question": "question", "gold": "x"})},
        splits=split(own=1),
    )
    assert "maps ['gold']" in text


def test_all_problems_of_a_mix_come_at_once(clean, source, build):
    text = errors(
        build,
        sources={"own": source("own", clean(3)), "twin": source("own", clean(3)), "odd": {"from": "gsm9k"}},
        splits={"rl_train": {"sources": {"own": 0}}, "rl_trian": {"sources": {"onw": 1}}},
        prompts={"default": {"user": "no place"}},
        filters={"broken_latx": False},
    )
    for said in (
        "same rows as own",
        "did you mean gsm8k",
        "sum to 0",
        "rl_trian",
        "did you mean own",
        "exactly once",
        "broken_latx",
    ):
        assert said in text


def test_a_weight_of_0_beside_others(clean, source, build):
    sources = {"a": source("a", clean(3)), "b": source("b", clean(3, 2))}
    assert "splits.rl_train.sources.b: has weight 0" in errors(build, sources=sources, splits=split(a=1, b=0))


def test_reward_that_does_not_exist(clean, source, build):
    assert "no reward is registered" in errors(
        build, sources={"own": source("own", clean(3), data_source="x/y")}, splits=split(own=1)
    )


def test_more_rows_than_there_are_and_an_empty_source(clean, source, build):
    config = {"sources": {"own": source("own", clean(5))}, "splits": {"rl_train": {"rows": 9, "sources": {"own": 1}}}}
    assert "asks for 9 rows of own; 5 unused" in errors(build, **config)
    empty = {"sources": {"own": source("own", [])}, "splits": {"rl_train": {"rows": 9, "sources": {"own": 1}}}}
    assert "asks for 9 rows of own; 0 unused" in errors(build, **empty)


def test_damaged_files(tmp_path, build, clean):
    columns = {"question": "question", "answer": "answer"}
    good = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(clean(50)), good)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-20])
    (tmp_path / "bad.jsonl").write_bytes(b'{"question": "a b", "answer": "1"}\n{"question": "\xff"}\n[1]\n')
    for name, said in (
        ("cut.parquet", "cannot be read as Parquet"),
        ("bad.jsonl", "bad.jsonl line 2"),
        ("none.csv", "is no file"),
    ):
        own = {"from": "columns", "path": str(tmp_path / name), "columns": columns, "data_source": "math/own"}
        assert said in errors(build, sources={"own": own}, splits=split(own=1))


def test_parquet_csv_and_jsonl_give_the_same_rows(tmp_path, build, clean, jsonl):
    rows = clean(30)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    jsonl("rows", rows)
    import csv

    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = []
    for kind in ("parquet", "csv", "jsonl"):
        own = {
            "from": "columns",
            "path": str(tmp_path / f"rows.{kind}"),
            "columns": {"question": "question", "answer": "answer"},
        }
        _, read = build(sources={"own": own | {"data_source": "math/own"}}, splits=split(own=1))
        found.append(read("rl_train"))
    assert found[0] == found[1] == found[2] and len(found[0]) == 30


def test_numbers_become_text_and_a_pattern_finds_the_gold(source, build):
    rows = [{"question": "How many are two and two?", "answer": 4.0, "level": "Level 3"}]
    columns = {"question": "question", "answer": "answer", "difficulty": "level"}
    _, read = build(sources={"own": source("own", rows, columns=columns)}, splits=split(own=1))
    assert read("rl_train")[0]["reward_model"]["ground_truth"] == "4"
    assert read("rl_train")[0]["extra_info"]["difficulty"] == 3.0
    rows = [{"question": "How many are two and two?", "answer": "It is four.\n#### 4"}]
    own = source("own2", rows, columns={"question": "question", "answer": "answer"}, answer_pattern=r"####\s*(.+)")
    _, read = build(sources={"own": own}, splits=split(own=1))
    assert read("rl_train")[0]["reward_model"]["ground_truth"] == "4"


def mutated(row: dict, rng: random.Random) -> object:
    """A row with one random fault."""
    row = dict(row)
    key = rng.choice(list(row))
    fault = rng.randrange(9)
    if fault == 0:
        del row[key]
    elif fault == 1:
        row[key] = rng.choice(
            [None, 3, 4.5, float("nan"), [], {}, [None], True, "", " ", "\x00", "\ud800", "$" * 50, "}{" * 99]
        )
    elif fault == 2:
        row[key] = row[key][: rng.randrange(len(row[key]))]
    elif fault == 3:
        place = rng.randrange(len(row[key]))
        row[key] = row[key][:place] + chr(rng.randrange(1, 0x3000)) + row[key][place:]
    elif fault == 4:
        row[key] = row[key] * rng.randrange(2, 30)
    elif fault == 5:
        row[key] = row[key][::-1]
    elif fault == 6:
        row["new"] = row.pop(key)
    elif fault == 7:
        return rng.choice([None, 3, "text", [row], []])
    else:
        row[key] = "".join(rng.choices("\\{}$#=+-*/()[]^_<>&%~ 0123456789abc\n\t", k=200))
    return row


def test_500_mutated_rows_give_a_build_or_a_clear_error(clean, tmp_path):
    rng = random.Random(3)
    columns = {"question": "question", "answer": "answer", "solution": "solution"}
    faulty = [mutated(row, rng) for row in clean(500)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*clean(100, 9), *faulty]))
    own = {"from": "columns", "path": str(path), "columns": columns, "data_source": "math/own"}
    config = {"sources": {"own": own}, "splits": split(own=1), "filters": {"near_duplicate": 0.8}}
    with pytest.raises(DataError, match="source own"):
        data_prep.build(config, tmp_path / "strict")
    config["sources"]["own"]["bad_rows"] = "drop"
    manifest = data_prep.build(config, tmp_path / "loose")
    drops = manifest["sources"]["own"]["drops"]
    assert drops["bad_row"] > 50 and manifest["files"]["rl_train.parquet"]["rows"] >= 90
