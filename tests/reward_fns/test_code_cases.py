"""The tables of code cases: response, tests, verdict and the reason for it, one row each.

A verdict is 1, 0, "verifier_error", or "refused". A hostile program is refused when it gets 0 or "verifier_error".
"""

import json
from pathlib import Path

import pytest

import reward_fns

FOLDER = Path(__file__).parent
CASES, JUDGE_CASES = (
    [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]
    for name in ("code_cases.jsonl", "judge_cases.jsonl")
)


@pytest.mark.parametrize("case", CASES + JUDGE_CASES, ids=lambda case: case["reason"])
@pytest.mark.usefixtures("sandboxed")
def test_verdict(case):
    tests = case["tests"] if isinstance(case["tests"], str) else json.dumps(case["tests"])
    grade = reward_fns.grade("mbpp", case["response"], tests, **case.get("options", {}))
    wanted = case["verdict"]
    assert grade["acc"] == (1 if wanted == 1 else 0), grade
    if wanted != "refused":
        assert grade["verifier_error"] == (wanted == "verifier_error"), grade


def test_tables_are_large_and_have_no_doubles():
    assert len(CASES) >= 150 and len(JUDGE_CASES) >= 500
    both = CASES + JUDGE_CASES
    assert len({(c["response"], json.dumps(c["tests"])) for c in both}) == len(both)
