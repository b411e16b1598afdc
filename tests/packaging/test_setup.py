"""The set-up script stops before it touches anything when the machine lacks what it needs."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def setup(checkout: Path, python: str | Path) -> subprocess.CompletedProcess:
    """Run as a user who may install nothing, so that no test changes this machine."""
    command = ["bash", checkout / "requirements" / "setup.sh", python, "requirements/cpu.lock"]
    program(checkout / "bin/id", "echo 1000")
    environ = os.environ | {"PATH": f"{checkout}/bin:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)


def program(file: Path, body: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


def copy_of_the_script(folder: Path) -> Path:
    (folder / "requirements").mkdir()
    script = (ROOT / "requirements" / "setup.sh").read_text()
    (folder / "requirements" / "setup.sh").write_text(script)
    return folder


def test_a_missing_python_is_named_with_the_remedy(tmp_path):
    result = setup(copy_of_the_script(tmp_path), "python3.11-that-is-not-there")
    assert result.returncode == 2
    assert "Python 3.11 is needed: 'python3.11-that-is-not-there' does not start" in result.stderr
    assert "make setup PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_version_of_python_is_refused(tmp_path):
    result = setup(copy_of_the_script(tmp_path), program(tmp_path / "python", "echo 3.13"))
    assert result.returncode == 2
    assert "is Python 3.13" in result.stderr


@pytest.mark.parametrize("there", [True, False])
def test_an_environment_of_the_other_kind_is_not_overwritten_and_missing_headers_are_said(tmp_path, there):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready-gpu").touch()
    (tmp_path / "include").mkdir()
    if there:
        (tmp_path / "include/Python.h").touch()
    python = program(tmp_path / "python", f'case "$*" in *include*) echo {tmp_path}/include;; *) echo 3.11;; esac')
    result = setup(copy_of_the_script(tmp_path), python)
    assert result.returncode == 2
    assert ".venv was built for another kind of machine (gpu)" in result.stderr
    said = f"there is no {tmp_path}/include/Python.h" in result.stdout and "install python3.11-dev" in result.stdout
    assert said is not there
