"""Every verb, and how a test runs one without a process of its own."""

import runpy
import signal
import sys
import warnings
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "posttrain_verl"
MAIN = '\nif __name__ == "__main__":'
VERBS = sorted([file.stem for file in PACKAGE.glob("*.py") if file.stem != "__main__" and MAIN in file.read_text("utf-8")]
               + [file.parent.name for file in PACKAGE.glob("*/__main__.py")])  # fmt: skip


def run(verb: str, words: list[str], folder: Path, monkeypatch) -> int:
    """The exit code of `python -m posttrain_verl.<verb> <words>` in `folder`; a traceback is the test's failure."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [verb, *words])
    monkeypatch.setenv("COLUMNS", "300")
    before = signal.getsignal(signal.SIGTERM)  # which `launch` replaces
    try:
        with pytest.raises(SystemExit) as ended, warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            runpy.run_module(f"posttrain_verl.{verb}", run_name="__main__")  # warns where a test has imported it before
        return int(ended.value.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
