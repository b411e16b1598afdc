"""Wrong mixes and damaged data: a clear error with source, row and remedy, and never another exception."""

import gzip
import json
import random
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep
from data_prep import DataError, parse


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
    assert "columns.gold: is not a known key" in text


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
        "sources.own: is 0, not a number above 0",
        "rl_trian",
        "did you mean own",
        "exactly once",
        "broken_latx",
    ):
        assert said in text


def test_options_of_a_source_and_the_use_of_another_are_named_together(clean, source, build):
    text = errors(
        build,
        sources={"own": source("own", clean(3), format="xml"), "exam": {"from": "aime24"}, "sums": {"from": "reasoning_gym"}},
        splits={"rl_train": {"rows": -1, "stages": [{"sources": {"exam": 1}}, {"shar": 2, "sources": {"own": 1}}]},
                "sft_train": {"sources": {"exam": 1, "own": 0}}},
    )  # fmt: skip
    for said in (
        "mix.sources.own.format: is 'xml'",
        "mix.sources.sums.family: is missing",
        "mix.splits.rl_train.rows: is -1",
        "mix.splits.rl_train.stages[1].shar: is not a known key",
        "mix.splits.sft_train.sources.exam: uses exam for sft; it is only for eval",
        "mix.splits.sft_train.sources.own: is 0, not a number above 0",
    ):
        assert said in text
    assert "does not have" not in text, "a source with a wrong option is still a source of the mix"


def test_null_stands_for_the_default(clean, source):
    config = {"sources": {"own": source("own", clean(3)), "exam": source("exam", clean(3, 2))}, "splits": split(own=1)}
    config |= {"filters": {"too_long": None}, "prompts": None, "decontaminate": {"against": None}}
    mix = parse(config)
    assert mix.against() == ("exam",), "null does not switch decontamination off"
    assert mix.filters.too_long.tokenizer == "bytes" and mix.prompt_for("math").user == "{question}"


def test_a_weight_of_0_beside_others(clean, source, build):
    sources = {"a": source("a", clean(3)), "b": source("b", clean(3, 2))}
    assert "splits.rl_train.sources.b: is 0, not a number above 0" in errors(
        build, sources=sources, splits=split(a=1, b=0)
    )


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
        ("none.csv", "is not a file"),
    ):
        own = {"from": "columns", "path": str(tmp_path / name), "columns": columns, "data_source": "math/own"}
        assert said in errors(build, sources={"own": own}, splits=split(own=1))


def test_an_unquoted_comma_of_a_csv_is_an_error(tmp_path, build):
    """It moves every cell after it, so that the gold is the rest of the question."""
    sums = "".join(f"How much is {number} plus {number}?,{2 * number}\n" for number in range(40))
    (tmp_path / "rows.csv").write_text(f'q,a\n{sums}If I have 2, then 3 more?,5\nAnd 2?\n"2, then 3?",5,\n')
    columns = {"question": "q", "answer": "a"}
    own = {"from": "columns", "path": str(tmp_path / "rows.csv"), "columns": columns, "data_source": "math/own"}
    text = errors(build, sources={"own": own}, splits=split(own=1))
    assert "row 40 and 1 more: has 3 cells, and the header has 2" in text and "row 41: a is null" in text
    manifest, read = build(sources={"own": own | {"bad_rows": "drop"}}, splits=split(own=1))
    assert len(read("rl_train")) == 40 and manifest["sources"]["own"]["drops"]["bad_row"] == 3


def test_decimals_and_fields_of_structs_are_columns(tmp_path, build):
    path = tmp_path / "rows.parquet"
    rows = [
        {"q": f"How much is {number} and a half?", "reward_model": {"ground_truth": Decimal(number) + Decimal("0.50")}}
        for number in range(1, 30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    own = {"from": "columns", "path": str(path), "data_source": "math/own"}
    columns = {"question": "q", "answer": "reward_model.ground_truth"}
    _, read = build(sources={"own": own | {"columns": columns}}, splits=split(own=1))
    assert {row["reward_model"]["ground_truth"] for row in read("rl_train")} == {f"{n}.5" for n in range(1, 30)}
    text = errors(
        build, sources={"own": own | {"columns": columns | {"answer": "reward_model.truth"}}}, splits=split(own=1)
    )
    assert "has no column 'reward_model.truth'" in text


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../../up"}, "it names a folder"),
        ({"seed": 1.5}, "mix.seed: is 1.5, not a whole number"),
        ({"seed": 2**70}, "not a whole number"),
        ({"limit": 5, "budget": 5}, "beside mix.budget"),
        ({"filters": {"false_step": "no"}}, "write true or false"),
        ({"filters": {"too_long": {"prompt": "x", "tokenizer": 5}}}, "too_long.tokenizer: is 5"),
        ({"decontaminate": {"against": 5}}, "not a list of names"),
        ({"decontaminate": {"ngrams": []}}, "names no length"),
        ({"prompts": {"default": {"system": 5}}}, "is 5, not a text"),
        ({"splits": {"rl_train": {"sources": {"own": float("inf")}}}}, "is inf, not a number"),
        ({"splits": {"rl_train": {"rows": float("inf"), "sources": {"own": 1}}}}, "rows: is inf"),
        ({"splits": {"rl_train": {"stages": 5, "sources": {"own": 1}}}}, "stages: is 5, not a list"),
        ({"splits": {"rl_train": {"may_share_with": ["rl_vall"], "sources": {"own": 1}}}}, "did you mean rl_val?"),
        ({"splits": {"rl_train": {"stages": [{"sources": {"own": 1}, "difficulty": [5, 1]}]}}}, "lower bound first"),
    ],
)
def test_a_wrong_value_in_a_mix_is_named(clean, source, build, change, said):
    assert said in errors(build, **({"sources": {"own": source("own", clean(3))}, "splits": split(own=1)} | change))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": {"question": ["q"]}}, "columns.question: is ['q'], not the name of a column"),
        ({"answer_pattern": 5}, "is not a regular expression"),
        ({"ability": "poetry"}, "write one of math, code"),
        ({"path": "."}, "is a folder"),
        ({"pth": "x"}, "did you mean path?"),
        ({"format": "xml"}, "write one of jsonl, csv, parquet"),
        ({"answer_pattern": "[0-9]+"}, "mark the gold with one (group)"),
    ],
)
def test_a_wrong_option_of_a_source_is_named(clean, source, build, options, said):
    assert said in errors(build, sources={"own": source("own", clean(3), **options)}, splits=split(own=1))


def test_the_same_file_under_another_name_is_the_same_source(clean, source, build):
    own = source("own", clean(3))
    twin = own | {"path": own["path"].replace("own.jsonl", "./own.jsonl")}
    assert "same rows as own" in errors(build, sources={"own": own, "twin": twin}, splits=split(own=1, twin=1))


def test_the_same_mistake_in_many_rows_is_one_problem(clean, source, build):
    text = errors(build, sources={"own": source("own", clean(30), columns={"question": "quest"})}, splits=split(own=1))
    assert "row 0 and 29 more" in text and "2." not in text


def test_a_split_without_a_row_is_an_error_that_says_why(clean, source, build):
    own = source("own", [row | {"answer": "?"} for row in clean(4)])
    assert "gets no row (own: 4 rows read, 0 pass the filters)" in errors(
        build, sources={"own": own}, splits=split(own=1)
    )


def test_packed_marked_and_listed_files_are_read(tmp_path, build, clean):
    text = "".join(json.dumps(row) + "\n" for row in clean(20)).encode()
    table = "question,answer,solution\nWhat is one and one?,2,\n"
    files = {
        "bom.jsonl": b"\xef\xbb\xbf" + text,
        "lines.jsonl": text.replace(b"\n", b"\r\n\r\n"),
        "rows.jsonl.gz": gzip.compress(text),
        "rows.jsonl.zst": pa.Codec("zstd").compress(text).to_pybytes(),
        "list.json": json.dumps(clean(20), indent=1).encode(),
        "bom.csv": b"\xef\xbb\xbf" + table.encode(),
        "rows.csv.gz": gzip.compress(table.encode()),
        "rows.tsv": table.replace(",", "\t").encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        own = {"from": "columns", "path": str(tmp_path / name), "columns": {"question": "question", "answer": "answer"}}
        manifest, _ = build(sources={"own": own | {"data_source": "math/own"}}, splits=split(own=1))
        assert manifest["files"]["rl_train.parquet"]["rows"] == (20 if ".json" in name else 1), name
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text)[:-30])
    own = {"from": "columns", "path": str(tmp_path / "rows.jsonl.gz"), "columns": {"question": "question"}}
    assert "cannot be read" in errors(build, sources={"own": own | {"data_source": "math/own"}}, splits=split(own=1))


def test_parquet_with_damaged_texts_and_columns_of_one_name(tmp_path, build):
    offsets = pa.py_buffer(np.array([0, 4, 24], dtype=np.int32))
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfeab" + b"What is one and one?")]
    )
    pq.write_table(pa.table({"question": texts, "answer": ["1", "2"]}), tmp_path / "bad.parquet")
    own = {
        "from": "columns",
        "path": str(tmp_path / "bad.parquet"),
        "columns": {"question": "question", "answer": "answer"},
    }
    config = {"sources": {"own": own | {"data_source": "math/own"}}, "splits": split(own=1)}
    assert "bad.parquet row 0: question is not valid UTF-8" in errors(build, **config)
    config["sources"]["own"]["bad_rows"] = "drop"
    assert build(**config)[0]["sources"]["own"]["drops"] == {"bad_row": 1}
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["question", "question"])
    pq.write_table(twice, tmp_path / "bad.parquet")
    config["sources"]["own"]["columns"] = {"question": "question"}
    assert "two columns named ['question']" in errors(build, **config)


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


def test_prompts_that_are_not_a_mapping(clean, source, build):
    assert "prompts: is [], not" in errors(
        build, sources={"own": source("own", clean(3))}, splits=split(own=1), prompts=[]
    )
