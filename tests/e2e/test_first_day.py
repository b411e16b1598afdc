"""The page "Your own data, reward and model", word for word: its files and its commands, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first_day.md"
FILES = re.compile(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"^    python (.*)$", re.MULTILINE)


@pytest.mark.nightly
@pytest.mark.e2e
@pytest.mark.timeout(2400)
def test_the_page_word_for_word(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    files, commands = FILES.findall(text), COMMANDS.findall(text)
    assert len(files) == 5 and len(commands) == 13
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    said = {}
    for command in commands:
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "200"}, check=False)  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said[command] = done.stdout
    sft, rl = (json.loads((tmp_path / place).read_text())["metrics"]["accuracy"]["value"]
               for place in ("runs/subtract_sft/first/eval/sft-subtraction-test.json",
                             "runs/subtract_grpo/first/eval/grpo-subtraction-test.json"))  # fmt: skip
    assert rl > sft > 0.2
    assert "the gain is real" in next(text for command, text in said.items() if ".compare " in command)
    page = (tmp_path / "runs/subtract_grpo/first/report.html").read_text()
    assert "subtraction" in page and "subtract_sft-first-160" in page
    assert "done after 24 steps" in said[commands[-1]]
