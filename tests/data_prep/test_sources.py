"""Every source turns a row of its set's schema into an item, says what it is for, and refuses other rows."""
# ruff: noqa: E501 (one row a line)

import json
from collections import Counter
from pathlib import Path

import pytest

import data_prep
from data_prep.sources import KINDS, spec_of

SHARED = Path(__file__).parents[3] / "shared" / "data"
TESTS = json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})
PROGRAM = json.dumps(["a, b = map(int, input().split())\nprint(a + b)"])
# One row of each set's schema, and the (question, answer) that it becomes.
ROWS = {
    "gsm8k": ({"question": "How many?", "answer": "2*3=<<2*3=6>>6\n#### 1,006"}, ("How many?", "1006")),
    "svamp": ({"Body": "Ann has 2 hats", "Question": "How many?", "Answer": 2.0, "Equation": "( 1 + 1 )"}, ("Ann has 2 hats. How many?", "2")),
    "math": ({"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 5"}, ("What is $1+1$?", "2")),
    "math_500": ({"problem": "p", "answer": "2", "solution": "s", "level": 3, "unique_id": "u"}, ("p", "2")),
    "dapo_math": (
        {
            "prompt": [{"role": "user", "content": "Solve the following math problem step by step. The last line.\n\nWhat is 1+1?\n\nRemember to put your answer on its own line."}],
            "reward_model": {"ground_truth": "2"},
        },
        ("What is 1+1?", "2"),
    ),
    "deepscaler": ({"problem": "p", "answer": "2", "solution": ""}, ("p", "2")),
    "numina_math": ({"problem": "p", "solution": "so $\\boxed{2}$", "source": "aops"}, ("p", "2")),
    "openr1_math": (
        {"problem": "p", "answer": "2", "generations": ["no", "yes"], "correctness_math_verify": [False, True], "is_reasoning_complete": [True, True], "uuid": "u"},
        ("p", "2"),
    ),
    "open_math_instruct": ({"problem": "p", "generated_solution": "\\boxed{2}", "expected_answer": "2"}, ("p", "2")),
    "open_thoughts": (
        {"conversations": [{"from": "user", "value": "p"}, {"from": "assistant", "value": "<|begin_of_thought|>hm<|end_of_thought|> \\boxed{2}"}]},
        ("p", "2"),
    ),
    "aime24": ({"id": 1, "problem": "p", "answer": "204"}, ("p", "204")),
    "aime25": ({"id": "1", "problem": "p", "answer": "70"}, ("p", "70")),
    "amc23": ({"id": 0, "question": "p", "answer": "27.0"}, ("p", "27.0")),
    "mbpp": ({"task_id": 1, "text": "Add.", "code": "def f(): ...\r\n", "test_list": ["assert f() == 1"]}, ("Add.\nYour code should pass this test:\nassert f() == 1", '{"test_list": ["assert f() == 1"], "test_setup_code": ""}')),
    "mbpp_plus": ({"task_id": 1, "prompt": "Add.", "test": "assert f() == 1", "test_list": ["assert f() == 1"]}, ("Add.\nYour code should pass this test:\nassert f() == 1", '{"functional": "assert f() == 1"}')),
    "humaneval_plus": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate() == 1"},
        ("def f():\n", json.dumps({"test": "def check(candidate):\n    assert candidate() == 1", "entry_point": "f", "prompt": "def f():\n"})),
    ),
    "apps": ({"problem_id": 1, "question": "Add.", "input_output": TESTS, "solutions": PROGRAM, "difficulty": "interview"}, ("Add.", TESTS)),
    "taco": ({"question": "Add.", "input_output": TESTS, "solutions": PROGRAM, "difficulty": "HARD"}, ("Add.", TESTS)),
    "kodcode": (
        {"question_id": "q", "question": "Add.", "solution": "def f(): return 1", "test": "from solution import f\n\ndef test_f():\n    assert f() == 1", "gpt_pass_percentage": 0.25},
        ("Add.", json.dumps({"functional": "from solution import f\n\ndef test_f():\n    assert f() == 1"})),
    ),
}  # fmt: skip


def read(kind: str, path: Path, **options):
    source = KINDS[kind]
    spec = spec_of(kind, {"path": str(path), **options})
    return [row for batch in source.open(spec).batches for row in batch.to_pylist()]


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_becomes_an_item(kind, tmp_path):
    row, wanted = ROWS[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    item = read(kind, path)[0]
    assert (item["question"], item["answer"]) == wanted
    assert item["id"].startswith(kind)


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_another_schema_is_refused_with_its_number(kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[kind][0]) + '\n{"unknown": 1}\n')
    with pytest.raises(data_prep.DataError, match=f"source {kind}, row 1"):
        read(kind, path)
    assert [row["flaw"] is None for row in read(kind, path, bad_rows="drop")] == [True, False]


@pytest.mark.parametrize("kind", ROWS)
def test_a_cell_of_any_kind_gives_an_item_or_a_bad_row(kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    for key in ROWS[kind][0]:
        for value in (None, 5, 2.5, float("nan"), True, "", "{", "[1]", "\ud800", [], [None], [5], {}, {"a": 1}):
            path.write_text(json.dumps(ROWS[kind][0] | {key: value}) + "\n")
            (item,) = read(kind, path, bad_rows="drop")
            assert item["flaw"] is None or not item["question"]


def test_every_source_of_the_hub_is_tested_here():
    assert set(ROWS) == {kind for kind, source in KINDS.items() if source.origin.startswith("hub ")}


def test_solutions_of_sets_with_several_or_framed_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    for kind, solution in (
        ("openr1_math", "yes"),
        ("open_thoughts", "<think>hm</think> \\boxed{2}"),
        ("gsm8k", "2*3=6\n#### 1,006"),
    ):
        path.write_text(json.dumps(ROWS[kind][0]) + "\n")
        assert read(kind, path)[0]["solution"] == solution


def test_humaneval_comes_with_its_package():
    source = KINDS["humaneval"]
    rows = [row for batch in source.open(spec_of("humaneval", {})).batches for row in batch.to_pylist()]
    assert len(rows) == 164 and json.loads(rows[0]["answer"])["entry_point"] == "has_close_elements"


def test_the_reward_of_every_source_accepts_its_gold(tmp_path):
    from data_prep.filters import gold

    path = tmp_path / "rows.jsonl"
    for kind, (row, _) in ROWS.items():
        path.write_text(json.dumps(row) + "\n")
        item, source = read(kind, path)[0], KINDS[kind]
        assert gold.explain_unreadable(item["answer"], source.data_source, source.ability) is None, kind


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.OfflineModeIsEnabled("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    with pytest.raises(data_prep.DataError, match=r"openai/gsm8k cannot be read from the hub.*[\s\S]*path: FILE"):
        KINDS["gsm8k"].open(spec_of("gsm8k", {}))


def test_a_reasoning_gym_family_with_a_worked_solution(build):
    sums = {"from": "reasoning_gym", "family": "gsm_symbolic", "size": 30, "seed": 1}
    _, rows = build(
        sources={"sums": sums},
        filters={"all": False},
        splits={"sft_train": {"rows": 5, "sources": {"sums": 1}}, "rl_train": {"rows": 5, "sources": {"sums": 1}}},
    )
    assert rows("rl_train")[0]["data_source"] == "reasoning_gym/gsm_symbolic"
    assert "#### " in rows("sft_train")[0]["messages"][1]["content"]
    with pytest.raises(data_prep.DataError, match="reasoning-gym refuses"):
        build(sources={"sums": sums | {"family": "gsm"}}, splits={"rl_train": {"sources": {"sums": 1}}})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"from": "column_sums", "params": 7}, "params: is 7, not a mapping"),
        ({"from": "column_sums", "size": "x"}, "size: is 'x'"),
        ({"from": "column_sums", "operators": "*"}, "operators: is '*'"),
        ({"from": "reasoning_gym", "family": "gsm_symbolic", "seed": -1}, "seed: is -1"),
        ({"from": "linear_functions", "largest": "a"}, "largest: is 'a'"),
    ],
)
def test_a_wrong_setting_of_a_generated_source_is_named(build, made, said):
    with pytest.raises(data_prep.DataError) as caught:
        build(sources={"own": made}, splits={"rl_train": {"sources": {"own": 1}}})
    assert said in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the checkout")
def test_real_gsm8k_has_few_flaws_and_they_are_true():
    from data_prep import filters

    source = KINDS["gsm8k"]
    spec = spec_of("gsm8k", {"path": str(SHARED / "gsm8k" / "train.jsonl")})
    found = Counter(
        filters.REASONS[r]
        for batch in source.open(spec).batches
        for r in filters.judge_batch(batch, filters.choose_filters({}), spec).reason
        if r
    )
    # Wrong equations, such as 192*100=$1920, and questions without a question mark.
    assert set(found) == {"false_step", "truncated"} and found["false_step"] < 30 and found["truncated"] < 5
