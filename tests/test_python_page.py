"""docs/python.md and docs/python.ipynb: what they name is there, and their code runs or at least composes."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from posttrain_verl import api, base_models
from posttrain_verl.cpu import warm
from posttrain_verl.evaluate.comparison import Comparison, Comparisons, Evaluation
from posttrain_verl.preflight import config_form
from posttrain_verl.significance import Paired

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NOTEBOOK = json.loads((ROOT / "docs/python.ipynb").read_text("utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
RESULTS = {
    "Composed": (api.Composed,), "CheckResult": (api.CheckResult, api.Problem), "Run": (api.Run,), "RunStatus": (api.RunStatus,),
    "Evaluation": (Evaluation,), "Comparisons": (Comparisons,), "a pair": (Comparison, Paired),
}  # fmt: skip

# Stands for every Python of a run: an engine that answers sums, and a driver that trains at once. The run named `second` lasts.
STAND_IN = """
import json, os, pathlib, runpy, shutil, sys, time
if sys.argv[-1] == "posttrain_verl.evaluate.engine":
    runpy.run_path(ENGINE, run_name="__main__")
    sys.exit()
folder = pathlib.Path(sys.argv[-1])
metrics = pathlib.Path(os.environ["VERL_FILE_LOGGER_PATH"])
for step in (1, 2):
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "data": {"train/loss": 1 / step}}) + "\\n")
saved = folder / "checkpoints/global_step_2/huggingface"
if not saved.exists():
    shutil.copytree(MODEL, saved)
if folder.name == "second" and metrics.name == "metrics.jsonl":
    time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Runs and engines that take no time, in an empty folder."""
    names = {"ENGINE": str(ROOT / "tests/evaluate/fake_engine.py"), "MODEL": str(base_models.ensure_model("nano_2m"))}
    program, python = tmp_path / "stand_in.py", tmp_path / "python"
    program.write_text("\n".join([*(f"{name} = {value!r}" for name, value in names.items()), STAND_IN]))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(warm.SWITCH, str(python))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "asked.jsonl"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.slow
def test_the_code_of_the_page_runs_in_its_order(stand_in, capsys):
    names: dict[str, object] = {}
    said = []
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
        said.append(capsys.readouterr().out)
    first, check, failed, detached, errors, progress = said
    assert "recipe demo_sft: SFT" in first and "can launch" in first
    assert "sft against base on embedded: +0.0 points" in first and first.rstrip().endswith(
        "runs/demo_sft/first/report.html"
    )
    assert "of a GPU at the peak" in check and "posttrain_verl.prep mix=math" in check
    assert failed == progress == "" and "demo_sft/second running at step 2" in detached
    assert "recipe=math_grop is unknown did you mean recipe=math_grpo?" in errors
    assert api.run("demo_sft/second").status().attempts == 2


def test_the_tables_name_what_there_is():
    functions = re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)
    assert set(functions) == {name for name in api.__all__ if name[0].islower()}
    rows = {
        name.strip("`"): text for name, text in re.findall(r"^\| (`[A-Z]\w+`|a pair) \| (.*) \|$", PAGE, re.MULTILINE)
    }
    assert rows.keys() == RESULTS.keys()
    for name, text in rows.items():
        fields = [each for kind in RESULTS[name] for each in (*kind.__dataclass_fields__, *dir(kind))]
        named = re.findall(r"`(\w+)(?:\(\))?`", text)
        others = {"value", "low", "high", "n"} if name == "Evaluation" else set()  # of each figure
        assert named and not set(named) - set(fields) - others, name


def test_every_function_says_what_it_raises():
    for name in api.__all__:
        if name[0].islower() and name != "check":
            assert "Raises:" in (getattr(api, name).__doc__ or ""), name


def test_the_notebook_is_one_and_holds_no_output():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids) == len(NOTEBOOK["cells"]) and len(CELLS) >= 8
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert NOTEBOOK["metadata"].keys() == {"kernelspec", "language_info"}


def assigned(code: str) -> dict[str, object]:
    """The names that code gives to plain values."""
    found: dict[str, object] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return found


@pytest.mark.parametrize("code", [*CELLS, *BLOCKS])
def test_the_words_of_page_and_notebook_compose(code):
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "api.compose" and 'math_grop"' not in code:
            words = eval(ast.unparse(ast.List(call.args, ast.Load())), assigned(code))
            assert config_form.check_keys(api.compose(*words)) == []


def test_the_code_of_page_and_notebook_calls_what_there_is():
    called = set(re.findall(r"\bapi\.(\w+)", "\n".join([*CELLS, *BLOCKS])))
    assert called <= set(api.__all__) and called >= {"compose", "check", "launch", "evaluate", "compare", "report"}
