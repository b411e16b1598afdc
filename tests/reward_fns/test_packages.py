"""Tests that need numpy: offered where a reward asks for it, read-only, and to nobody else."""

import json

import pytest

import reward_fns
from reward_fns.code import sandbox
from reward_fns.code.sandbox import Limits, SandboxPool

NUMPY = ("numpy",)
LIMITS = Limits(wall=5.0)
# As EvalPlus writes its tests: exact, or close where floats are expected.
CLOSE = """import numpy as np

def assertion(out, exp, atol):
    exact_match = out == exp
    if not exact_match and atol != 0:
        np.testing.assert_allclose(out, exp, atol=atol)
    else:
        assert exact_match
"""
HUMANEVAL_PLUS = {
    "prompt": "def halves(xs):\n    '''Half of each.'''\n",
    "entry_point": "halves",
    "test": CLOSE + "\ndef check(candidate):\n    inputs = [[[1, 2]], [[]]]\n    results = [[0.5, 1.0], []]\n"
    "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 1e-6)\n",
}
MBPP_PLUS = {
    "functional": CLOSE + "\ninputs = [[[1, 2]], [[]]]\nresults = [[0.5, 1.0], []]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(halves(*inp), exp, 1e-6)\n",
}


@pytest.fixture(scope="module")
def box(sandboxed):
    pool = SandboxPool(1, packages=NUMPY)
    with pool.sandbox() as one:
        yield one
    pool.close()


def graded(body, tests=HUMANEVAL_PLUS, data_source="evalplus/humanevalplus"):
    answer = f"```python\n{body}\n```"
    grade = reward_fns.grade(data_source, answer, json.dumps(tests))
    return grade["acc"], grade["verifier_error"]


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("data_source", "tests"), [("evalplus/humanevalplus", HUMANEVAL_PLUS), ("evalplus/mbppplus", MBPP_PLUS)]
)
@pytest.mark.parametrize(
    ("body", "acc"),
    [
        ("def halves(xs):\n    return [x / 2 for x in xs]", 1.0),
        ("def halves(xs):\n    return [x / 2 + 1e-9 for x in xs]", 1.0),
        ("def halves(xs):\n    return [x / 2 + 1e-3 for x in xs]", 0.0),
        ("def halves(xs):\n    return [x // 2 for x in xs]", 0.0),
        ("import numpy as np\ndef halves(xs):\n    return [float(x) for x in np.array(xs) / 2]", 1.0),
        ("import numpy as np\nnp.testing.assert_allclose = lambda *a, **k: None\ndef halves(xs):\n    return [7.0]", 0.0),
        ("class Close(float):\n    __eq__ = lambda *a: True\n    __sub__ = lambda *a: 0.0\n"
         "def halves(xs):\n    return [Close(9) for x in xs]", 0.0),
    ],
    ids=["exact", "close", "not close", "wrong", "with numpy", "patches numpy", "lies about =="],
)  # fmt: skip
def test_a_test_that_compares_with_numpy_passes_and_fails_as_it_should(data_source, tests, body, acc):
    assert graded(body, tests, data_source) == (acc, 0.0)


@pytest.mark.usefixtures("sandboxed")
def test_other_rewards_have_no_numpy():
    right = "def halves(xs):\n    return [x / 2 for x in xs]"
    assert graded(right, MBPP_PLUS, "mbpp") == (0.0, 1.0)
    importing = "import numpy\ndef halves(xs):\n    return [x / 2 for x in xs]"
    assert graded(importing, {"test_list": ["assert halves([2]) == [1.0]"]}, "mbpp") == (0.0, 0.0)


@pytest.mark.usefixtures("sandboxed")
def test_numbers_of_any_length_may_be_expected():
    tests = HUMANEVAL_PLUS | {
        "entry_point": "f",
        "test": f"def check(candidate):\n    assert candidate() == {'7' * 5000}",
    }
    assert graded("def f():\n    return 7 * (10**5000 - 1) // 9", tests) == (1.0, 0.0)


def run(box, source):
    return box.run_script(source, "", LIMITS)


def test_nothing_but_the_packages_is_added_and_they_are_read_only(box):
    pool = SandboxPool(1)
    with pool.sandbox() as plain:
        usual = run(plain, "import os; print(*os.listdir('/'))").stdout.split()
    pool.close()
    assert sorted(run(box, "import os; print(*os.listdir('/'))").stdout.split()) == sorted([*usual, "packages"])
    assert set(run(box, "import os; print(*os.listdir('/packages'))").stdout.split()) <= {"numpy", "numpy.libs"}
    assert run(box, "import numpy; print(numpy.__file__)").stdout == "/packages/numpy/__init__.py\n"
    for folder in ("/packages", "/packages/numpy"):
        assert "Read-only" in run(box, f"open('{folder}/x.py', 'w')").stderr
    assert "not permitted" in run(box, "import socket; socket.socket()").stderr


def test_a_matrix_product_takes_one_core(box):
    product = "import numpy, os\na = numpy.ones((800, 800))\na @ a\nprint(len(os.listdir('/proc/self/task')))"
    assert run(box, product).stdout == "1\n"


def test_unisolated_it_grades_the_same():
    pool = SandboxPool(1, isolation="none", packages=NUMPY)
    with pool.sandbox() as box:
        spec = {"kind": "assert", "tests": ["import numpy\nassert numpy.isclose(f(2), 4)"], "names": ["f"]}
        assert box.run_tests("def f(x): return x * x + 1e-9", spec, LIMITS)["passed"] == [True]
    pool.close()


def test_only_named_packages_are_shown():
    with pytest.raises(ValueError, match=r"packages=\['torch'\]: a sandbox shows only numpy"):
        reward_fns.grade("mbpp", "def f(): ...", '{"test_list": ["assert f() == 1"]}', packages=["torch"])
    assert sandbox.check_packages(["numpy", "numpy"]) == NUMPY


def test_a_python_that_cannot_import_the_package_is_named(monkeypatch, tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.setattr(sandbox, "package_site", lambda name: tmp_path)
    sandbox.find_interpreter.cache_clear()
    with pytest.raises(sandbox.SandboxUnavailable, match="with numpy"):
        sandbox.find_interpreter(NUMPY)
    sandbox.find_interpreter.cache_clear()
