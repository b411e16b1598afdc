"""What the judge makes of tests: which of them it runs, what it tells of those that prove nothing, and numbers of any length."""

import ast
import json
import sys

import pytest

import reward_fns
from reward_fns.code import digits
from reward_fns.code.inside import collect
from reward_fns.code.problem import BadTests, read_problem

POWER = "```python\ndef power(n):\n    return 7 ** n\n```"


@pytest.fixture(scope="module")
def long_number():
    """7 to the 6000th, of 5071 digits, as text."""
    with digits.reading("9" * 5000):
        return str(7**6000)


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    "schema",
    [
        '{{"fn_name": "power", "inputs": [[6000]], "outputs": [{0}]}}',
        '{{"fn_name": "power", "inputs": ["6000"], "outputs": ["{0}"]}}',
        '{{"test_list": ["assert power(6000) == {0}"]}}',
        '{{"functional": "from solution import power\\ndef test_power():\\n    assert power(6000) == {0}"}}',
        '{{"entry_point": "power", "prompt": "BIG = {0}\\ndef power(n):\\n", '
        '"test": "def check(candidate):\\n    assert candidate(6000) == BIG"}}',
        '[{{"input": "6000", "output": "{0}", "testtype": "functional", "metadata": {{"func_name": "power"}}}}]',
    ],
)
def test_numbers_have_any_length(schema, long_number):
    tests, limit = schema.format(long_number), sys.get_int_max_str_digits()
    assert reward_fns.grade("code", POWER, tests)["acc"] == 1.0
    wrong = reward_fns.grade("code", POWER.replace("7 **", "6 **"), tests)
    assert (wrong["acc"], wrong["verifier_error"]) == (0.0, 0.0)
    assert sys.get_int_max_str_digits() == limit


@pytest.mark.usefixtures("sandboxed")
def test_a_script_prints_numbers_of_any_length(long_number):
    tests = json.dumps({"inputs": ["6000\n"], "outputs": [long_number]})
    assert reward_fns.grade("code", "```python\nprint(7 ** int(input()))\n```", tests)["acc"] == 1.0


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("program", "acc"),
    [
        ("def double(x: Missing):\n    return 2 * x", 0.0),
        ("from __future__ import annotations\ndef double(x: Missing):\n    return 2 * x", 1.0),
        ("def double(x: int):\n    return 2 * x if double.__annotations__['x'] is int else None", 1.0),
    ],
)
@pytest.mark.parametrize(
    "tests",
    [
        {"test_list": ["assert double(4) == 8"]},
        {"fn_name": "double", "inputs": [[4]], "outputs": [8]},
        {"entry_point": "double", "prompt": "import math\ndef double(x):\n    '''d'''\n",
         "test": "def check(candidate):\n    def local(x: int): ...\n    assert local.__annotations__['x'] is int\n"
                 "    assert candidate(4) == 8"},
    ],
)  # fmt: skip
def test_nothing_of_how_the_judge_was_compiled_reaches_programs_and_tests(program, acc, tests):
    assert reward_fns.grade("code", f"```python\n{program}\n```", json.dumps(tests))["acc"] == acc


@pytest.mark.usefixtures("sandboxed")
def test_tests_that_made_no_assertion_are_the_verifiers_fault_and_say_so():
    tests = json.dumps({"functional": "for case in []:\n    assert double(case) == 2 * case"})
    grade = reward_fns.grade("code", "```python\ndef double(x): return 2 * x\n```", tests, partial=True)
    assert (grade["score"], grade["verifier_error"]) == (0.0, 1.0)
    assert "the tests made no assertion" in grade["pred"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def helper(a, b):\n    assert f(a) == b", "no assertion"),
        ("class Checks:\n    def test_it(self):\n        assert f(1) == 2", "no assertion"),
        ("def test_it(tmp_path):\n    assert f(tmp_path) == 2", "tmp_path, a fixture"),
        ("import os\ndef test_it():\n    assert f(os.environ) == 2", "the environment (os.environ)"),
        ("from unittest import mock\nassert f(mock.Mock()) == 2", "mock objects"),
        ("assert f(open('x').read()) == 2", "files"),
        ("import pytest\n@pytest.mark.skip\ndef test_it():\n    assert f(1) == 2", "no assertion"),
    ],
)
def test_tests_that_cannot_judge_are_known_before_any_program_runs(code, why):
    assert why in read_problem(json.dumps({"functional": code})).unusable


@pytest.mark.parametrize(
    "code",
    [
        "def test_it(capsys):\n    assert f(1) == 2",
        "import pytest\n@pytest.fixture\ndef one():\n    return 1\ndef test_it(one):\n    assert f(one) == 2",
        "import pytest\n@pytest.mark.parametrize('a, b', [(1, 2)])\ndef test_it(a, b):\n    assert f(a) == b",
        "if f(1) != 2:\n    raise AssertionError",
        "account.open(3)\nassert f(1) == 2",
        "def helper():\n    assert f(1) == 2",
    ],
)
def test_tests_that_look_like_those_and_can_judge_are_kept(code):
    assert read_problem(json.dumps({"functional": code})).unusable == ""


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("v = Vector(1)\nassert v.x == 1", {"Vector"}),
        ("assert Vector(1) * 2 == Vector(2)", {"Vector"}),
        ("assert isinstance(make(), Point)", {"Point"}),
        ("assert Extract([[1]]) == [1]", set()),
        ("assert abs(Average([1, 2]) - 1.5) < 1e-6", set()),
        ("assert max_of(3).x == 3", set()),
    ],
)
def test_which_names_the_tests_treat_as_classes(code, names):
    assert collect.names_treated_as_classes([ast.parse(code)]) == names


def test_rewriting_tests_keeps_their_meaning():
    code = '"""d"""\nfrom __future__ import annotations\nx = 1\nif x:\n    assert x == 1, "x"\nelse:\n    x = 2\n'
    made = []
    hooks = {collect.STEP: lambda *_: None, collect.CHECK: lambda *_: made.append(1)}
    exec(compile(collect.rewrite_tests(ast.parse(code)), "test", "exec", dont_inherit=True), hooks)
    assert (hooks["x"], len(made), hooks["__doc__"]) == (1, 1, "d")


@pytest.mark.parametrize(
    "tests",
    [
        [{"input": "1", "output": "2", "testtype": "functional"}],
        {"inputs": ["1"], "outputs": ["1"], "checker": "print(1)"},
    ],
)
def test_rows_that_no_grader_here_can_judge_are_an_error_of_the_data(tests):
    with pytest.raises(BadTests, match=r"name of a function|checker"):
        read_problem(json.dumps(tests))


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("def test_a():\n    print(f(1))", "makes no assertion"),
        ('{"test_list": ["assert f(1) == 2",', "are not JSON"),
        ("{'inputs': ['1'], 'outputs': ['1']}", "are not JSON"),
        ("def test_a(:\n    f(1)", "no Python that can be read"),
    ],
)
def test_tests_that_are_neither_json_nor_code_that_asserts_are_said_to_be(tests, reason):
    with pytest.raises(BadTests, match=reason):
        read_problem(tests)
