"""Data as users bring it: solutions without a marked answer, rows for one kind of split, golds of any form.

A row is judged by what its splits use, a build that loses rows says why, and what it advises is accepted and helps.
"""

import json
import logging
import re
import shlex

import pyarrow.parquet as pq
import pytest
import yaml

import data_prep
from data_prep import manifest as manifests
from posttrain_verl import inspect as inspect_verb
from posttrain_verl import prep
from posttrain_verl.terminal.command_line import read as read_words
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Inspect, Prep

BOTH = {"rl_train": {"sources": {"own": 1}}, "sft_train": {"sources": {"own": 1}, "may_share_with": ["rl_train"]}}
RL, SFT = ({name: {"sources": {"own": 1}}} for name in BOTH)


def left(number: int) -> dict:
    """A subtraction in words, whose solution marks no final answer."""
    rest = 500 - number
    solution = (
        f"Ada starts with 500 pens. Giving away {number} leaves 500 - {number} = {rest} pens.",
        f"We subtract: 500 - {number} = {rest}",
        f"She had 500 and gave {number}, so Ada keeps {rest} pens",
    )[number % 3]
    question = f"Ada has 500 pens and gives {number} of them to Ben. How many pens does Ada have left?"
    return {"question": question, "answer": str(rest), "solution": solution}


ROWS = [left(number) for number in range(10, 70)]


def without(column: str) -> list[dict]:
    return [{name: cell for name, cell in row.items() if name != column} for row in ROWS]


def prompt(user: str, **more: str) -> dict:
    return {"prompts": {"default": {"user": user, **more}}}


def solutions(read) -> list[str]:
    return [row["messages"][-1]["content"] for row in read("sft_train")]


@pytest.mark.parametrize("answer", ["hashes", "boxed", "tag", "plain"])
def test_solutions_that_mark_no_answer_are_kept_and_end_as_the_mix_asks(source, build, answer):
    rows = [
        row for row in ROWS if answer != "plain" or not row["solution"].endswith("pens")
    ]  # where no reward finds it
    _, read = build(sources={"own": source("own", rows)}, splits=BOTH, **prompt("{question}", answer=answer))
    assert len(read("rl_train")) == len(read("sft_train")) == len(rows)
    golds = {row["question"]: row for row in ROWS}
    for row in read("sft_train"):
        item, said = golds[row["messages"][0]["content"]], row["messages"][-1]["content"]
        ends = {
            "hashes": "\n#### {}",
            "boxed": "\nThe answer is $\\boxed{{{}}}$.",
            "tag": "\n<answer>{}</answer>",
            "plain": "",
        }
        assert said == item["solution"] + ends[answer].format(item["answer"])


def test_rows_for_rl_alone_need_no_solution_and_are_not_judged_by_one(source, build):
    columns = {"question": "question", "answer": "answer"}
    _, read = build(sources={"own": source("own", without("solution"), columns=columns)}, splits=RL)
    assert len(read("rl_train")) == len(ROWS)
    bad = ("", "We add the", "5 * 5 = 26", "so on " * 40, "Hence $\\frac{1$", "Das ist die Summe und nicht der Rest.")
    rows = [row | {"solution": bad[number % len(bad)]} for number, row in enumerate(ROWS)]
    filters = {"too_long": {"solution": 30}}
    manifest, read = build(sources={"own": source("own", rows)}, splits=RL, filters=filters)
    assert len(read("rl_train")) == len(ROWS) and manifest["sources"]["own"]["drops"] == {}


def test_rows_without_a_gold_are_shown_as_they_are(source, build):
    """They were once rendered as null, on which nothing can be trained."""
    columns = {"question": "question", "solution": "solution"}
    own = source("own", without("answer"), columns=columns, data_source="my/pens")
    _, read = build(sources={"own": own}, splits=SFT)
    assert sorted(solutions(read)) == sorted(row["solution"] for row in ROWS)


def test_a_source_of_sft_needs_no_reward(source, build):
    rows = [row | {"answer": f"${row['answer']}$"} for row in ROWS]
    manifest, _ = build(sources={"own": source("own", rows, data_source="my/pens")}, splits=SFT)
    assert manifest["sources"]["own"]["drops"] == {}


def test_a_bad_solution_costs_sft_the_row_and_rl_keeps_it(source, build, tmp_path):
    flaws = {"false_step": "First 5 * 5 = 26.\nThis leaves 1.", "truncated": "We add the"}
    rows = [*ROWS, *(left(number) | {"solution": flaw} for number, flaw in zip((80, 81), flaws.values(), strict=True))]
    rows.append(left(82) | {"answer": "n/a"})
    manifest, read = build(sources={"own": source("own", rows)}, splits=BOTH)
    assert len(read("rl_train")) == len(ROWS) + 2 and len(read("sft_train")) == len(ROWS)
    entry = manifest["sources"]["own"]
    assert (entry["rows_kept"], entry["drops"]) == (len(ROWS) + 2, {"unreadable_gold": 1})
    assert entry["unfit"] == {"sft": dict.fromkeys(("truncated", "false_step"), 1)}
    assert manifests.describe_drops(entry) == "1 unreadable_gold, 1 truncated (from sft), 1 false_step (from sft)"
    dropped = pq.read_table(tmp_path / "built" / "dropped.parquet").to_pylist()
    assert {row["reason"]: row["dropped_from"] for row in dropped} == {
        "unreadable_gold": "rl, sft", "truncated": "sft", "false_step": "sft",
    }  # fmt: skip


def test_a_solution_is_kept_where_nothing_writes_or_grades_its_bad_gold(source, build):
    rows = [row | {"answer": r"\frac{1}{"} for row in ROWS]
    _, read = build(sources={"own": source("own", rows)}, splits=SFT, **prompt("{question}", answer="plain"))
    assert len(read("sft_train")) == len(ROWS)


def test_of_two_rows_with_one_question_the_one_that_serves_all_splits_stays(source, build):
    rows = [ROWS[0] | {"solution": "We subtract the"}, *ROWS]
    manifest, read = build(sources={"own": source("own", rows)}, splits=BOTH)
    assert len(read("sft_train")) == len(ROWS) and manifest["sources"]["own"]["drops"] == {"duplicate": 1}


def test_tokens_of_a_split_are_those_that_it_shows(source, build):
    files = build(sources={"own": source("own", ROWS)}, splits=BOTH)[0]["files"]
    shown = [files[f"{name}.parquet"]["tokens"]["total"] for name in BOTH]
    assert shown == [sum(len(row[name]) for row in ROWS for name in names)
                     for names in (("question",), ("question", "solution"))]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "ends"),
    [("{question}", "#### 490"), ("{question} Use \\boxed{{}}.".replace("{{}}", "{}"), "\\boxed{490}$."),
     ("{question} Write <answer> and </answer>.", "<answer>490</answer>"), ("{question} Say #### and \\boxed.", "#### 490")],
)  # fmt: skip
def test_without_a_format_solutions_end_as_the_prompt_asks(source, build, user, ends):
    _, read = build(sources={"own": source("own", ROWS[:1])}, splits=BOTH, **prompt(user))
    assert solutions(read)[0].endswith(ends)


def test_a_format_that_the_prompt_does_not_ask_for_is_refused(source, build):
    config = {"sources": {"own": source("own", ROWS)}, "splits": RL}
    with pytest.raises(data_prep.DataError) as caught:
        build(**config, **prompt("{question} Use \\boxed{}.", answer="hashes"))
    assert "solutions end in ####, and the prompt asks for \\boxed\n     write answer: boxed" in str(caught.value)
    _, read = build(**config, **prompt("{question} Use \\boxed{}.", answer="boxed"))
    assert read("rl_train")[0]["extra_info"]["answer_mark"] == "boxed"


def test_the_tests_of_a_program_are_never_written_below_it(jsonl, build):
    row = {"question": "Write f, which adds 1.", "answer": json.dumps({"functional": "assert f(1) == 2"}),
           "solution": "```python\ndef f(x):\n    return x + 1\n```"}  # fmt: skip
    own = {"from": "columns", "path": jsonl("own", [row]), "columns": {name: name for name in row},
           "data_source": "my/code", "ability": "code"}  # fmt: skip
    for given in ({}, prompt("{question}", answer="boxed")):
        _, read = build(sources={"own": own}, splits=SFT, filters={"unreadable_gold": False}, **given)
        assert solutions(read) == [row["solution"]]


@pytest.mark.parametrize(
    "form", ["#### {}", "\\boxed{{{}}}", "$\\boxed{{{}}}$", "<answer>{}</answer>", "We subtract.\n#### {}"]
)
def test_a_gold_with_a_mark_of_its_own_is_written_once(source, build, form):
    rows = [row | {"answer": form.format(row["answer"])} for row in ROWS]
    for answer, ends in (("hashes", "#### {}"), ("boxed", "The answer is $\\boxed{{{}}}$.")):
        _, read = build(sources={"own": source("own", rows)}, splits=SFT, **prompt("{question}", answer=answer))
        wanted = sorted(f"{row['solution']}\n{ends.format(row['answer'])}" for row in ROWS)
        assert sorted(solutions(read)) == wanted


def test_a_solution_that_boxes_a_step_and_ends_in_hashes_ends_in_a_box(source, build):
    rows = [
        {**ROWS[0], "solution": "First $\\boxed{10}$ are gone.\n#### 490"},
        {**ROWS[1], "solution": "So $\\boxed{489}$."},
    ]
    _, read = build(sources={"own": source("own", rows)}, splits=SFT, **prompt("{question}", answer="boxed"))
    assert sorted(solutions(read)) == [
        "First $\\boxed{10}$ are gone.\nThe answer is $\\boxed{490}$.",
        "So $\\boxed{489}$.",
    ]


def test_solutions_that_stay_as_they_are_must_end_as_the_prompt_asks(source, build):
    config = {"sources": {"own": source("own", [row | {"solution": row["solution"] + "\n#### 1"} for row in ROWS])}}
    with pytest.raises(data_prep.DataError, match=r"the prompt asks for \\boxed, and the solution ends in"):
        build(**config, splits=SFT, **prompt("{question} Use \\boxed{}.", answer="plain"))


LONG = (
    "Of all the pens in the drawers, on the desks and under the beds of this old house by the river some are now gone. "
)
LOSSES = {
    "needs_image": {"question": "Look at the figure below. How many pens are shown in the picture? {}"},
    "truncated": {"question": "Ada has {} pens, and then she gives away half of the"},
    "broken_latex": {"question": "How much is $\\frac{{{}$?"},
    "repetition": {"question": "How many are {} pens? " + "and so on and so on " * 9},
    "other_language": {
        "question": "Der Bauer hat {} Schafe und verkauft die Hälfte. Wie viele hat er noch auf der Weide?"
    },
    "unreadable_gold": {"answer": "\\frac{{{}}}{{"},
    "empty_answer": {"answer": ""},
    "disagreeing_solution": {"solution": "It is {}.\n#### 7"},
    "false_step": {"solution": "It is 5 * 5 = 2{}."},
    "too_long": {"solution": LONG + "{} are left."},
    "conflicting_gold": {"question": "Ada has {} pens. How many does she have left?"},
    "near_duplicate": {
        "question": "Ada {} gives 5 of her 9 pens to Ben and keeps the others for herself. How many?",
        "answer": "4",
    },
}


@pytest.fixture
def own_mix(jsonl, tmp_path, monkeypatch):
    """`prep` on rows of one's own in a folder of one's own; returns the manifest."""
    monkeypatch.chdir(tmp_path)

    def run(rows: list[dict], *words: str, splits=None, **mix) -> dict:
        own = {"from": "columns", "path": jsonl("own", rows), "data_source": "math/own",
               "columns": {name: name for name in rows[0] if name != "extra"}}  # fmt: skip
        config = {
            "name": "own",
            "sources": {"own": own | mix.pop("own", {}), **mix.pop("more", {})},
            "splits": splits or BOTH,
        }
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(config | mix, sort_keys=False))
        prep.run(read_words(Prep, ["mix=own.yaml", *words]))
        return data_prep.read_manifest(tmp_path / "data" / "own")

    return run


WORDS = ("Ann", "Bea", "Cem", "Dan", "Eva", "Fay", "Gus", "Ida", "Jan", "Kai")


def flawed(reason: str) -> list[dict]:
    """Forty rows of which each has this flaw."""
    fill = [f"{WORDS[n % 10]} {WORDS[n // 10]}" if reason == "near_duplicate" else str(n) for n in range(30, 70)]
    if reason == "conflicting_gold":  # two rows with each question
        fill = [str(n // 2) for n in range(30, 70)]
    flaw = LOSSES[reason]
    return [
        left(n) | {name: text.format(word) for name, text in flaw.items()}
        for n, word in zip(range(30, 70), fill, strict=True)
    ]


@pytest.mark.parametrize("reason", LOSSES)
def test_a_failed_build_names_the_filter_three_rows_and_what_switches_it_off(own_mix, tmp_path, reason):
    """The advice is taken as it stands, on the command line and in the mix, and helps."""
    rows = 20 if reason == "conflicting_gold" else 35
    mix = {"filters": {"too_long": {"solution": 100}, "near_duplicate": 0.6}}
    mix["splits"] = {"sft_train": {"rows": rows, "sources": {"own": 1}}}
    with pytest.raises(InputError) as caught:
        own_mix(flawed(reason), **mix)
    said = str(caught.value)
    if reason != "near_duplicate":  # whose questions are not lost
        assert f"source own: 40 of 40 rows are dropped: 40 {reason}" in said
        assert len(re.findall(r"^ +own/\d+: ", said, re.MULTILINE)) == 3
    override, line = re.search(rf"(filters\.{reason}=\S+) keeps them; in the mix: `(.*)`", said).groups()
    assert own_mix(flawed(reason), override, **mix)["files"]["sft_train.parquet"]["rows"] == rows
    mix["filters"] = mix["filters"] | yaml.safe_load(line)["filters"]
    assert own_mix(flawed(reason), "--force", **mix)["files"]["sft_train.parquet"]["rows"] == rows


def test_contaminated_rows_can_be_kept(own_mix, source):
    exam = source("exam", [{"question": f"A friend asks. {row['question']}", "answer": row["answer"]} for row in ROWS[:40]],
                  columns={"question": "question", "answer": "answer"})  # fmt: skip
    splits = {"test": {"sources": {"exam": 1}}, "rl_train": {"rows": 35, "sources": {"own": 1}}}
    with pytest.raises(InputError, match="40 of 40 rows are dropped: 40 contaminated") as caught:
        own_mix(ROWS[:40], splits=splits, more={"exam": exam})
    override = re.search(r"(filters\.contaminated=\S+) keeps them", str(caught.value)).group(1)
    built = own_mix(ROWS[:40], override, splits=splits, more={"exam": exam})
    assert built["files"]["rl_train.parquet"]["rows"] == 35 and built["overlap"]["exam"]["left_in"] == 40


def test_an_answer_that_nobody_writes_below_is_advised_to_be_written(own_mix):
    mix = prompt("{question} Use \\boxed{}.", answer="plain")
    with pytest.raises(InputError, match="60 of 60 rows are dropped from sft: 60 missing_final_answer") as caught:
        own_mix(ROWS, **mix)
    override = re.search(r"prep write .*: (prompts\S+)", str(caught.value)).group(1)
    assert own_mix(ROWS, override, **mix)["files"]["sft_train.parquet"]["rows"] == 60


def test_golds_inside_a_text_and_rows_without_a_gold_have_remedies_in_the_source(own_mix):
    rows = [row | {"answer": f"The answer is that there are {row['answer']} pens left"} for row in ROWS]
    with pytest.raises(InputError, match="give source own answer_pattern"):
        own_mix(rows)
    assert own_mix(rows, own={"answer_pattern": r"are (\d+) pens"})["files"]["rl_train.parquet"]["rows"] == 60
    rows = [row | {"answer": ""} for row in ROWS]
    with pytest.raises(InputError, match="but RL is graded by the gold, and check refuses an empty one"):
        own_mix(rows)
    with pytest.raises(InputError, match="take answer out of the columns of source own"):
        own_mix(rows, splits=SFT)
    columns = {"question": "question", "solution": "solution"}
    assert own_mix(rows, splits=SFT, own={"columns": columns})["files"]["sft_train.parquet"]["rows"] == 60


def test_a_failed_build_keeps_what_it_dropped_and_does_not_look_finished(own_mix, tmp_path):
    folder, bad = tmp_path / "data" / "own", flawed("false_step")
    kept = folder / "failed_build" / "dropped.parquet"
    for finished in (False, True):
        with pytest.raises(InputError, match=f"The dropped rows with their reasons: {kept.relative_to(tmp_path)}"):
            own_mix(bad, "--force", splits=SFT)
        assert {row["reason"] for row in pq.read_table(kept).to_pylist()} == {"false_step"}
        assert (folder / "manifest.json").exists() == finished
        if not finished:
            with pytest.raises(InputError, match="what a failed build dropped: data/own/failed_build") as caught:
                inspect_verb.run(read_words(Inspect, ["mix=own.yaml", "seed=3"]))
            remedy = caught.value.problems[0].remedy
            *_, verb, mix, data_dir = shlex.split(remedy)
            assert (verb, mix, data_dir) == ("posttrain_verl.prep", "mix=own.yaml", "posttrain.data_dir=data")
            own_mix(ROWS)
            assert not kept.parent.exists() and not data_prep.verify(folder)
    assert data_prep.verify(folder) == [], "the finished build before it is as it was"


@pytest.fixture
def short(own_mix):
    """The problems of a build that has too few rows, as texts by split."""

    def run(rows, *words, **mix) -> dict[str, str]:
        with pytest.raises(InputError) as caught:
            own_mix(rows, *words, **mix)
        found = [(each.what, each.remedy) for each in caught.value.problems]
        return {what.split(":")[0].removeprefix("mix.splits."): f"{what}\n{remedy}" for what, remedy in found}

    return run


def wanting(**rows: int | str) -> dict:
    return {name: {"rows": count, "sources": {"own": 1}} for name, count in rows.items()}


def test_too_few_rows_say_how_many_there_are_and_taking_these_helps(short, own_mix):
    splits = wanting(rl_train=90)
    said = short(ROWS, splits=splits)["rl_train"]
    assert (
        "asks for 90 rows of own; 60 unused ones are left (60 rows read)" in said
        and "give source own more rows" in said
    )
    fewer = re.search(r"splits\.rl_train\.rows=\d+", said).group()
    assert own_mix(ROWS, fewer, splits=splits)["files"]["rl_train.parquet"]["rows"] == 60


def test_rows_that_another_split_took_are_said_and_can_be_shared(short, own_mix):
    splits = wanting(rl_val=20, rl_train=40, sft_train=40)
    said = short(ROWS, splits=splits)["sft_train"]
    assert "0 unused ones are left (60 rows read, 40 are not in rl_val, 0 are not in rl_train)" in said
    assert "may_share_with=[rl_val]" not in said, "questions of a validation are not trained on"
    share = re.search(r"splits\.sft_train\.may_share_with=\S+", said).group()
    assert own_mix(ROWS, share, splits=splits)["files"]["sft_train.parquet"]["rows"] == 40
    said = short(ROWS, splits=wanting(rl_val=70, rl_train=10))["rl_val"]
    assert "give source own more rows, or lower splits.rl_val.rows" in said, (
        "taking all of them leaves none to train on"
    )
    assert "lower splits.rl_val.rows" in short(ROWS, splits=wanting(rl_val=50, rl_train=40))["rl_train"]


def test_a_split_that_needs_what_the_source_does_not_map_says_so(short):
    said = short(without("solution"), splits=BOTH)["sft_train"]
    assert "gets no row (own: 60 rows read, 0 have solution)" in said and "map columns.solution of source own" in said
    said = short(without("answer"), splits=wanting(rl_train=9))["rl_train"]
    assert "0 have answer" in said and "take own out of rl_train" in said


def test_difficulties_that_no_row_has_are_said(short):
    stages = {"stages": [{"name": "hard", "sources": {"own": 1}, "difficulty": [4, 9]}], "rows": 10}
    rows = [row | {"difficulty": number % 3} for number, row in enumerate(ROWS)]
    said = short(rows, splits={"rl_train": stages})
    assert "widen the difficulty of rl_train: source own has 0 to 2" in said["rl_train, stage hard"]
    assert "columns.difficulty maps one" in short(ROWS, splits={"rl_train": stages})["rl_train, stage hard"]


def test_repeated_questions_and_a_small_budget_of_tokens_are_said(short):
    rows = [row | {"question": ROWS[0]["question"], "answer": ROWS[0]["answer"], "solution": None} for row in ROWS]
    assert "more questions: 59 of its rows repeat one" in short(rows, splits=wanting(rl_train=9))["rl_train"]
    tokens = {"rl_train": {"tokens": 5, "sources": {"own": 1}}}
    assert "raise splits.rl_train.tokens: not one row fits into it" in short(ROWS, splits=tokens)["rl_train"]


def test_a_finished_build_that_lost_more_than_half_warns_and_repeats_are_not_lost(source, build, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    repeats = [row | {"question": "  " + row["question"]} for row in ROWS for _ in range(3)]
    build(sources={"own": source("own", [*ROWS, *repeats])}, splits=BOTH)
    assert "warning" not in caplog.text
    bad = [*ROWS[:39], *flawed("false_step")[-40:]]
    build(sources={"own": source("own", [left(n) for n in range(70, 109)] + bad[39:])}, splits=BOTH)
    assert (
        "warning: source own: 40 of 79 rows are dropped from sft: 40 false_step\n     false_step: filters"
        in caplog.text
    )


def test_bad_rows_are_in_dropped_parquet_as_they_are_in_the_source(source, build, tmp_path):
    rows = [*ROWS, {"question": None, "answer": "\ud800"}, {"question": "x"}]
    manifest, _ = build(sources={"own": source("own", rows, bad_rows="drop")}, splits=RL)
    assert manifest["sources"]["own"]["drops"] == {"bad_row": 2}
    dropped = pq.read_table(tmp_path / "built" / "dropped.parquet").to_pylist()
    assert [(row["id"], row["reason"], row["dropped_from"]) for row in dropped] == [
        ("own/60", "bad_row", "rl"), ("own/61", "bad_row", "rl"),
    ]  # fmt: skip
    assert (
        dropped[0]["detail"].endswith(r': {"question": null, "answer": "\ud800"}')
        and "has no column" in dropped[1]["detail"]
    )


def test_lines_that_are_not_rows_are_dropped_with_their_text(source, build, tmp_path):
    own = source("own", ROWS, bad_rows="drop")
    with open(own["path"], "a") as stream:
        stream.write('{"question": "cut\n[1]\n')
    build(sources={"own": own}, splits=RL)
    details = [row["detail"] for row in pq.read_table(tmp_path / "built" / "dropped.parquet").to_pylist()]
    assert details[0].startswith("is not JSON") and details[0].endswith(r': "{\"question\": \"cut"')
    assert details[1] == "is list, not an object: [1]"


def test_a_folder_is_named_with_the_files_that_it_holds(source, build, tmp_path):
    own = source("own", ROWS)
    with pytest.raises(data_prep.DataError) as caught:
        build(sources={"own": own | {"path": str(tmp_path)}}, splits=RL)
    pattern = re.search(r"such as (\S+)", str(caught.value)).group(1)
    assert build(sources={"own": own | {"path": pattern}}, splits=RL)[0]["sources"]["own"]["rows_in"] == len(ROWS)
