"""Weights, stages, budgets, determinism, and the shape of the rows."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep.mix import parse
from data_prep.splits import apportion

MIXES = sorted((Path(__file__).parents[2] / "conf" / "mix").glob("*.yaml"))


@given(st.integers(0, 10**6), st.dictionaries(st.text(max_size=3), st.floats(0.001, 1000), min_size=1, max_size=8))
def test_weights_are_met_within_rounding(total, weights):
    counts = apportion(total, weights)
    assert sum(counts.values()) == total
    for name, count in counts.items():
        assert abs(count - total * weights[name] / sum(weights.values())) < 1 + 1e-6 * total


def test_the_largest_remainder_gets_the_last_row():
    assert apportion(1, {"a": 1, "b": 9}) == {"a": 0, "b": 1}
    assert apportion(3, {"a": 1, "b": 1}) == {"a": 2, "b": 1}


@pytest.mark.parametrize("file", MIXES, ids=lambda file: file.stem)
def test_every_mix_parses_and_is_named_like_its_file(file):
    config = yaml.safe_load(file.read_text())
    parse(config)
    assert config["name"] == file.stem
    assert file.read_text().startswith("# @package posttrain.mix\n")


def graded(clean, count, seed, level):
    return [row | {"level": level} for row in clean(count, seed)]


def test_shares_of_sources_and_stages_from_easy_to_hard(clean, source, build):
    columns = {"question": "question", "answer": "answer", "difficulty": "level"}
    rows = graded(clean, 150, 1, 1) + graded(clean, 150, 2, 3)
    _, read = build(
        sources={"a": source("a", rows, columns=columns), "b": source("b", graded(clean, 200, 3, 5), columns=columns)},
        splits={
            "rl_train": {
                "rows": 100,
                "stages": [
                    {"name": "easy", "share": 1, "sources": {"a": 1}, "difficulty": [0, 2]},
                    {"name": "hard", "share": 3, "sources": {"a": 1, "b": 2}, "difficulty": [3, 9]},
                ],
            }
        },
    )
    info = [row["extra_info"] for row in read("rl_train")]
    assert [each["stage"] for each in info] == ["easy"] * 25 + ["hard"] * 75
    assert all(each["difficulty"] == 1 for each in info[:25])
    assert sum(each["source"] == "b" for each in info) == 50
    assert [each["index"] for each in info] == list(range(100))


def test_prompts_system_and_answer_format_are_the_mixs(clean, source, build):
    _, read = build(
        sources={"own": source("own", clean(60))},
        prompts={"default": {"system": "Think.", "user": "Q: {question}\nBox it.", "answer": "boxed"}},
        splits={"sft_train": {"rows": 40, "sources": {"own": 1}}},
    )
    for row in read("sft_train"):
        system, user, assistant = row["messages"]
        assert (system["role"], user["role"], assistant["role"]) == ("system", "user", "assistant")
        assert (
            system["content"] == "Think."
            and user["content"].startswith("Q: ")
            and user["content"].endswith("\nBox it.")
        )
        assert "\\boxed{" in assistant["content"] and "####" not in assistant["content"]


def test_the_seed_chooses_the_rows(clean, source, build):
    config = {
        "sources": {"own": source("own", clean(200))},
        "splits": {"rl_train": {"rows": 50, "sources": {"own": 1}}},
    }
    built = [build(**config, seed=seed) for seed in (1, 1, 2)]
    chosen = []
    for seed in (1, 2):
        _, read = build(**config, seed=seed)
        chosen.append({row["extra_info"]["id"] for row in read("rl_train")})
    assert built[0][0]["files"] == built[1][0]["files"] != built[2][0]["files"]
    assert 5 < len(chosen[0] & chosen[1]) < 25  # two draws of 50 from 200 share about 12


def test_limit_and_budget_shrink_every_split_in_its_share(clean, source, build):
    config = {
        "sources": {"own": source("own", clean(400))},
        "splits": {name: {"rows": rows, "sources": {"own": 1}} for name, rows in (("test", 60), ("rl_train", 240))},
    }
    for size in ("limit", "budget"):
        manifest, _ = build(**config, **{size: 50})
        assert {name: entry.get("rows") for name, entry in manifest["files"].items()} == {
            "test.parquet": 10, "rl_train.parquet": 40, "dropped.parquet": None,
        }  # fmt: skip


def test_a_token_budget_is_kept(clean, source, build):
    manifest, _ = build(
        sources={"own": source("own", clean(200))}, splits={"rl_train": {"tokens": 5000, "sources": {"own": 1}}}
    )
    total = manifest["files"]["rl_train.parquet"]["tokens"]["total"]
    assert 4000 < total <= 5000


def test_overlap_left_in_by_choice_is_in_the_manifest(clean, source, build):
    exam = clean(20, 9)
    rows = clean(100) + [row | {"question": "Once more: " + row["question"]} for row in exam]
    config = {
        "sources": {"exam": source("exam", exam), "own": source("own", rows)},
        "splits": {"test": {"sources": {"exam": 1}}, "rl_train": {"sources": {"own": 1}}},
    }
    kept, _ = build(**config, decontaminate={"against": ["exam"], "ngrams": [20], "drop": False})
    assert kept["overlap"]["exam"]["left_in"] >= 20 and kept["overlap"]["exam"]["examples"][0]["span"]
    dropped, read = build(**config, decontaminate={"against": ["exam"], "ngrams": [20], "drop": 20})
    assert dropped["overlap"]["exam"]["left_in"] == 0
    assert not any("Once more" in row["prompt"][0]["content"] for row in read("rl_train"))


def test_an_evaluation_set_stays_whole_and_training_rows_give_way(clean, source, build):
    exam = clean(12, 9)
    exam += [exam[0], exam[1] | {"answer": "7"}]  # a repeat, and a question with two golds
    rows = [*clean(30), exam[2], exam[3] | {"answer": "9", "solution": "#### 9"}]
    manifest, read = build(
        sources={"own": source("own", rows), "exam": source("exam", exam)},
        decontaminate={"against": []},
        splits={"test": {"sources": {"exam": 1}}, "rl_train": {"sources": {"own": 1}}},
    )
    assert len(read("test")) == 14 and manifest["sources"]["exam"]["drops"] == {}
    assert manifest["sources"]["own"]["drops"] == {"conflicting_gold": 1, "duplicate": 1}


def test_several_solutions_a_question_serve_sft_and_rl_takes_the_question_once(clean, source, build):
    rows = clean(40)
    twice = rows + [row | {"solution": "In other words:\n" + row["solution"]} for row in rows]
    _, read = build(
        sources={"own": source("own", twice, unique="row")},
        splits={
            "rl_train": {"sources": {"own": 1}},
            "sft_train": {"sources": {"own": 1}, "may_share_with": ["rl_train"]},
        },
    )
    assert len(read("rl_train")) == 40 and len(read("sft_train")) == 80


def test_rows_of_many_buckets_come_out_in_order(clean, source, build, monkeypatch):
    from data_prep import parquet

    monkeypatch.setattr(parquet, "BUCKET_ROWS", 16)
    config = {
        "sources": {"own": source("own", clean(200))},
        "splits": {"rl_train": {"rows": 100, "sources": {"own": 1}}},
    }
    _, read = build(**config)
    small = read("rl_train")
    monkeypatch.undo()
    _, read = build(**config)
    assert small == read("rl_train")


def test_golds_that_mean_the_same_are_no_conflict(clean, source, build):
    rows = clean(6)
    rows += [
        rows[0] | {"answer": f"\\frac{{{rows[0]['answer']}}}{{1}}"},
        rows[1] | {"answer": f"${rows[1]['answer']}$"},
    ]
    rows += [rows[2] | {"answer": str(int(rows[2]["answer"]) + 1), "solution": None}]
    manifest, _ = build(sources={"own": source("own", rows)}, splits={"rl_train": {"sources": {"own": 1}}})
    assert manifest["sources"]["own"]["drops"] == {"conflicting_gold": 2, "duplicate": 2}


def test_a_changed_word_is_a_near_duplicate_and_a_changed_number_is_none(source, build):
    question = (
        "On Monday {} carries 12 boxes of tea with 7 bags each to the market. How many {} of tea are that in all?"
    )
    rows = [
        {"question": question.format("Ada", "bags"), "answer": "84", "solution": None},
        {"question": question.format("Zoe", "packs"), "answer": "84", "solution": None},
        {"question": question.format("Ada", "bags").replace("7", "8"), "answer": "96", "solution": None},
    ]
    config = {"sources": {"own": source("own", rows)}, "splits": {"rl_train": {"sources": {"own": 1}}}}
    manifest, _ = build(**config, filters={"near_duplicate": 0.8})
    assert manifest["sources"]["own"]["drops"] == {"near_duplicate": 1}


def test_a_budget_caps_a_split_that_takes_all_there_is(clean, source, build):
    sources = {"exam": source("exam", clean(5, 7)), "own": source("own", clean(300, 8))}
    splits = {"test": {"sources": {"exam": 1}}, "rl_train": {"rows": 100, "sources": {"own": 1}}}
    files = build(sources=sources, splits=splits, budget=150)[0]["files"]
    assert files["test.parquet"]["rows"] == 5 and files["rl_train.parquet"]["rows"] == 60
