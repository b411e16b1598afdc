"""The set-up script stops before it touches anything when the machine lacks what it needs."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def setup(checkout: Path, python: str) -> subprocess.CompletedProcess:
    command = ["bash", checkout / "requirements" / "setup.sh", python, "requirements/cpu.lock"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


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
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.13\n")
    other.chmod(0o755)
    result = setup(copy_of_the_script(tmp_path), str(other))
    assert result.returncode == 2
    assert "is Python 3.13" in result.stderr


def test_an_environment_of_the_other_kind_is_not_overwritten(tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready-gpu").touch()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3.11\n")
    python.chmod(0o755)
    result = setup(copy_of_the_script(tmp_path), str(python))
    assert result.returncode == 2
    assert ".venv was built for another kind of machine (gpu)" in result.stderr
