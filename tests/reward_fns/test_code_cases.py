"""The table of code cases: response, tests, verdict and the reason for it, one row each."""

import json
from pathlib import Path

import pytest

import reward_fns

CASES = [json.loads(line) for line in (Path(__file__).parent / "code_cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["reason"])
@pytest.mark.usefixtures("sandboxed")
def test_verdict(case):
    tests = case["tests"] if isinstance(case["tests"], str) else json.dumps(case["tests"])
    grade = reward_fns.grade("mbpp", case["response"], tests, **case.get("options", {}))
    assert grade["acc"] == case["verdict"], grade
    assert grade["verifier_error"] == 0, grade


def test_table_is_large_and_has_no_doubles():
    assert len(CASES) >= 150
    assert len({(c["response"], json.dumps(c["tests"])) for c in CASES}) == len(CASES)
