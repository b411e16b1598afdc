"""The table of math cases: response, gold, verdict and the reason for it, one row each."""

import json
from pathlib import Path

import pytest

import reward_fns

CASES = [json.loads(line) for line in (Path(__file__).parent / "math_cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["reason"])
def test_verdict(case):
    grade = reward_fns.grade(case.get("source", "math"), case["response"], case["gold"], **case.get("options", {}))
    assert grade["acc"] == case["verdict"], grade
    assert grade["score"] == grade["acc"]
    assert grade["verifier_error"] == 0


def test_table_is_large_and_has_no_doubles():
    assert len(CASES) >= 300
    assert len({(c["response"], c["gold"], c.get("source"), str(c.get("options"))) for c in CASES}) == len(CASES)
