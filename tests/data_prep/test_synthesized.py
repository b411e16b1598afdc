"""What `synthesize` wrote, as a part of a mix: its solutions and pairs as sources, and its pass rates."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep
from data_prep import schema
from data_prep.sources.synthesized import RATES_SCHEMA, row_id


@pytest.fixture
def folder(tmp_path, clean):
    """A folder as `synthesize` leaves it: two solutions and one pair for each of 40 rows, whose rates are 0, 1/39, 2/39 ... 1."""
    out, rows = tmp_path / "own", clean(40)
    out.mkdir()

    def facts(number: int, *samples: int) -> dict:
        info = {"id": row_id(f"q/{number}", *samples), "source": "s", "difficulty": 0.5}
        return {"data_source": "openai/gsm8k", "ability": "math", "extra_info": info}

    def said(text: str) -> list:
        return [{"role": "assistant", "content": text}]

    asked = [[{"role": "user", "content": f"Think. {row['question']}"}] for row in rows]
    tables = {
        "sft_train": (schema.SFT.schema, [{**facts(n, k), "messages": asked[n] + said(f"Way {k}. {row['solution']}")}
                                          for n, row in enumerate(rows) for k in range(2)]),
        "pairs_train": (schema.PAIRS.schema, [{**facts(n, 0, 3), "prompt": asked[n], "chosen": said(row["solution"]),
                                               "rejected": said("It is 1. #### 1")} for n, row in enumerate(rows)]),
        "rates": (RATES_SCHEMA, [{"id": f"q/{n}", "question": row["question"], "answer": row["answer"], "rate": n / 39,
                                  "data_source": "openai/gsm8k", "ability": "math", "source": "s"}
                                 for n, row in enumerate(rows)]),
    }  # fmt: skip
    files = {}
    for name, (columns, table) in tables.items():
        pq.write_table(pa.Table.from_pylist(table, schema=columns), out / f"{name}.parquet")
        files[f"{name}.parquet"] = {"sha256": name}
    (out / "manifest.json").write_text(json.dumps({"files": files}))
    return out


def own(folder, **options) -> dict:
    return {"from": "synthesized", "path": str(folder)} | options


def test_solutions_stand_beside_those_of_another_source(folder, clean, source, build):
    """Also with a filter of near duplicates: a question may have several solutions."""
    manifest, read = build(
        sources={"base": source("base", clean(40)), "own": own(folder)},
        splits={"sft_train": {"rows": 120, "sources": {"base": 1, "own": 2}}},
        prompts={"default": {"user": "Q: {question}", "answer": "hashes"}},
        filters={"near_duplicate": 0.8},
    )
    assert manifest["files"]["sft_train.parquet"]["rows_by_source"] == {"base": 40, "own": 80}
    mine = [row for row in read("sft_train") if row["extra_info"]["source"] == "own"]
    questions = {row["question"] for row in clean(40)}
    assert {row["messages"][0]["content"].removeprefix("Q: ") for row in mine} == questions, (
        "the prompt is the mix's own"
    )
    assert {row["messages"][1]["content"][:6] for row in mine} == {"Way 0.", "Way 1."}
    assert {round(39 * (1 - row["extra_info"]["difficulty"])) for row in mine} == set(range(40))
    assert manifest["sources"]["own"]["files"] == {"sft_train.parquet": "sft_train", "rates.parquet": "rates"}


def test_a_source_that_should_give_pairs_says_how(folder, build):
    with pytest.raises(data_prep.DataError, match="add rows: pairs to source own"):
        build(sources={"own": own(folder)}, splits={"pairs_train": {"rows": 30, "sources": {"own": 1}}})


def test_pairs_are_rows_of_their_own_kind(folder, clean, build):
    _, read = build(
        sources={"own": own(folder, rows="pairs")},
        splits={"pairs_val": {"rows": 10, "sources": {"own": 1}}, "pairs_train": {"rows": 30, "sources": {"own": 1}}},
    )
    row = read("pairs_train")[0]
    assert list(row) == ["data_source", "prompt", "chosen", "rejected", "ability", "extra_info"]
    assert row["rejected"] == [{"role": "assistant", "content": "It is 1. #### 1"}]
    assert row["chosen"][0]["content"] in {each["solution"] for each in clean(40)}, "as it was sampled"
    assert not {each["prompt"][0]["content"] for each in read("pairs_val")} & {
        each["prompt"][0]["content"] for each in read("pairs_train")
    }


def test_a_source_without_wrong_answers_makes_no_pairs(clean, source, build):
    with pytest.raises(data_prep.DataError, match=r"map columns\.rejected of source own"):
        build(sources={"own": source("own", clean(20))}, splits={"pairs_train": {"rows": 5, "sources": {"own": 1}}})


def test_own_pairs_of_a_file_are_mapped(clean, source, build):
    rows = [row | {"rejected": f"No: {number}. #### 3"} for number, row in enumerate(clean(20))]
    given = source("own", rows)
    given["columns"] = {**given["columns"], "rejected": "rejected"}
    _, read = build(sources={"own": given}, splits={"pairs_train": {"rows": 20, "sources": {"own": 1}}})
    assert len({row["rejected"][0]["content"] for row in read("pairs_train")}) == 20


def test_pairs_with_one_chosen_answer_are_not_duplicates(clean, source, build):
    (row,) = clean(1)
    given = source("own", [row | {"rejected": f"No: {number}. #### 3"} for number in range(4)], unique="row")
    given["columns"] = {**given["columns"], "rejected": "rejected"}
    manifest, read = build(sources={"own": given}, splits={"pairs_train": {"rows": "all", "sources": {"own": 1}}})
    assert len(read("pairs_train")) == 4 and manifest["sources"]["own"]["drops"] == {}


def rates(folder, **options) -> dict:
    return {"path": str(folder)} | options


def test_rates_drop_what_is_hopeless_or_solved_and_give_the_difficulty(folder, clean, source, build):
    manifest, read = build(
        sources={"base": source("base", clean(50))},
        splits={"rl_train": {"rows": "all", "sources": {"base": 1}}},
        rates=rates(folder, keep=[0.1, 0.9]),
    )
    kept = [row["extra_info"]["difficulty"] for row in read("rl_train")]
    known = [each for each in kept if each is not None]
    assert len(kept) - len(known) == 10, "questions without a rate stay"
    assert len(known) == 32 and min(known) >= 0.1 and max(known) <= 0.9
    assert manifest["sources"]["base"]["drops"] == {"pass_rate": 8}
    assert manifest["rates"]["rows_with_a_rate"] == 40 and len(manifest["rates"]["sha256"]) == 64
    assert {row["detail"] for row in read("dropped")} == {"the pass rate is below 0.1", "the pass rate is above 0.9"}


def test_rates_make_a_curriculum(folder, clean, source, build):
    stages = [
        {"name": "easy", "share": 1, "difficulty": [0, 0.5]},
        {"name": "hard", "share": 1, "difficulty": [0.5001, 1]},
    ]
    _, read = build(
        sources={"base": source("base", clean(50))},
        splits={"rl_train": {"rows": 20, "sources": {"base": 1}, "stages": stages}},
        rates=rates(folder, unknown="drop"),
    )
    hard = [row["extra_info"]["difficulty"] > 0.5 for row in read("rl_train")]
    assert hard == [False] * 10 + [True] * 10


def test_the_filter_can_be_switched_off_and_the_difficulty_stays(folder, clean, source, build):
    _, read = build(
        sources={"base": source("base", clean(40))},
        splits={"rl_train": {"rows": 40, "sources": {"base": 1}}},
        rates=rates(folder, keep=[0.4, 0.6]),
        filters={"pass_rate": False},
    )
    assert max(row["extra_info"]["difficulty"] for row in read("rl_train")) == 1.0


def test_held_out_questions_are_never_dropped_by_rates(folder, clean, source, build):
    _, read = build(
        sources={"exam": source("exam", clean(40)), "base": source("base", clean(80)[40:])},
        splits={"test": {"rows": "all", "sources": {"exam": 1}}, "rl_train": {"rows": 20, "sources": {"base": 1}}},
        rates=rates(folder, keep=[0.4, 0.6]),
    )
    assert len(read("test")) == 40


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "nosuch"}, r"mix\.rates\.path: nosuch cannot be read"),
        ({}, r"mix\.rates\.path: is missing"),
        ({"path": "x", "keep": [0.9, 0.1]}, r"mix\.rates\.keep: is \(0\.9, 0\.1\): no rate lies in it"),
        ({"path": "x", "kep": 1}, r"mix\.rates\.kep: is not a known key"),
        ({"path": "x", "keep": [0, 2]}, r"mix\.rates\.keep"),
    ],
)
def test_wrong_rates(given, said, clean, source, build):
    with pytest.raises(data_prep.DataError, match=said):
        build(
            sources={"base": source("base", clean(5))},
            splits={"rl_train": {"rows": "all", "sources": {"base": 1}}},
            rates=given,
        )


def test_a_folder_that_synthesize_did_not_write(tmp_path, build):
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(data_prep.DataError, match=r"source own: .* has no rates\.parquet"):
        build(sources={"own": own(tmp_path)}, splits={"sft_train": {"rows": "all", "sources": {"own": 1}}})
    with pytest.raises(data_prep.DataError, match="it is only for sft"):
        build(sources={"own": own(tmp_path)}, splits={"rl_train": {"rows": "all", "sources": {"own": 1}}})
