"""Small files in the format of each published set that a mix of the library reads, made up and free of duplicates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TACO_LEVELS = ("EASY", "MEDIUM", "MEDIUM_HARD", "HARD", "VERY_HARD")
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kai", "Lea")
THINGS = ("apples", "stamps", "marbles", "books", "tickets", "shells", "coins", "pencils", "cards", "buttons", "stones")


def question(kind: str, number: int) -> str:
    """Sets share no passage that is long enough to count as an overlap."""
    name, thing = NAMES[number % len(NAMES)], THINGS[number % len(THINGS)]
    bought = f"has {number} {thing} and buys {2 * number + 1} more"
    return f"{name} of {kind} {bought} in {kind}. How many {thing} has {name} of {kind} then?"


def total(number: int) -> int:
    return 3 * number + 1


def worked(number: int) -> str:
    return f"There are {number}+{2 * number + 1}={total(number)} in all."


def assertion(kind: str, number: int) -> str:
    return f"assert {kind}_{number}(1) == {number + 1}"


def program(kind: str, number: int) -> str:
    return f"def {kind}_{number}(x):\n    return x + {number}\n"


def tests_of_streams(number: int) -> str:
    return json.dumps({"inputs": ["1\n"], "outputs": [f"{number + 1}\n"]})


# A row of each set by its kind: from the kind and a number to the columns that the set has.
ROWS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "gsm8k": lambda kind, n: {"question": question(kind, n), "answer": f"{worked(n)}\n#### {total(n)}"},
    "math": lambda kind, n: {
        "problem": question(kind, n), "solution": f"{worked(n)} So it is $\\boxed{{{total(n)}}}$.", "level": f"Level {n % 5 + 1}",
    },
    "math_500": lambda kind, n: {
        "problem": question(kind, n), "solution": worked(n), "answer": str(total(n)), "level": 3, "unique_id": str(n),
    },
    "dapo_math": lambda kind, n: {
        "prompt": [{"role": "user", "content": f"Solve the following math problem step by step.\n\n{question(kind, n)}\n\n"
                                               "Remember to put your answer on its own line."}],
        "reward_model": {"ground_truth": str(total(n))},
    },
    "deepscaler": lambda kind, n: {"problem": question(kind, n), "answer": str(total(n)), "solution": ""},
    "openr1_math": lambda kind, n: {
        "problem": question(kind, n), "answer": str(total(n)), "uuid": str(n), "is_reasoning_complete": [True],
        "generations": [f"{worked(n)} So it is $\\boxed{{{total(n)}}}$."], "correctness_math_verify": [True],
    },
    "aime24": lambda kind, n: {"id": n, "problem": question(kind, n), "answer": str(total(n))},
    "aime25": lambda kind, n: {"id": str(n), "problem": question(kind, n), "answer": str(total(n))},
    "amc23": lambda kind, n: {"id": n, "question": question(kind, n), "answer": f"{total(n)}.0"},
    "humaneval_plus": lambda kind, n: {
        "task_id": f"HumanEval/{n}", "prompt": f"def plus_{n}(x):\n    '''Add {n} to x.'''\n", "entry_point": f"plus_{n}",
        "canonical_solution": f"    return x + {n}\n", "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}",
    },
    "mbpp": lambda kind, n: {
        "task_id": n, "text": f"Write a function that adds {n} to a number.", "code": program(kind, n),
        "test_list": [assertion(kind, n)],
    },
    "mbpp_plus": lambda kind, n: {
        "task_id": n, "prompt": f"Write a function that gives a number and {n} more.", "test": assertion(kind, n),
        "test_list": [assertion(kind, n)],
    },
    "taco": lambda kind, n: {
        "question": f"Read a number from the input and print the sum of it and {n}.", "input_output": tests_of_streams(n),
        "solutions": json.dumps([f"print(int(input()) + {n})"]), "difficulty": TACO_LEVELS[n % 5],
    },
    "kodcode": lambda kind, n: {
        "question_id": str(n), "question": f"Return the argument raised by {n}.", "solution": program(kind, n),
        "test": f"from solution import {kind}_{n}\n\ndef test_it():\n    {assertion(kind, n)}", "gpt_pass_percentage": 0.5,
    },
}  # fmt: skip


def write_stand_in(folder: Path, name: str, kind: str, rows: int) -> Path:
    """`rows` rows of a set, in a file that is named like the source of a mix."""
    file = folder / f"{name}.jsonl"
    lines = (json.dumps(ROWS[kind](name, number)) for number in range(1, rows + 1))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file
