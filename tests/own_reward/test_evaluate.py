"""`evaluate` from its arguments to its file under an own reward, with an engine that needs no model."""

import json
import shutil
from pathlib import Path

import pytest

from posttrain_verl.evaluate import __main__ as verb
from posttrain_verl.evaluate import comparison, job
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Evaluate

ENGINE = Path(__file__).parents[1] / "evaluate/fake_engine.py"  # answers `a+b=` rightly
WORD = "reward=my_reward.py:score"


@pytest.fixture
def evaluate(here, rows, monkeypatch):
    python, model = here / "python", here / "model"
    python.write_text(f'#!/bin/sh\nexec "{shutil.which("python3")}" "{ENGINE}"\n')
    python.chmod(0o755)
    monkeypatch.setenv("POSTTRAIN_WARM_PYTHON", str(python))
    monkeypatch.setenv("FAKE_LOG", str(here / "asked.jsonl"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model.mkdir()
    for name, text in (("config.json", "{}"), ("tokenizer.json", "{}"), ("chat_template.jinja", "{{ messages }}")):
        (model / name).write_text(text)
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    file = rows(20)  # the engine adds where the gold subtracts: every answer is wrong

    def run(*arguments):
        asked = read(Evaluate, [f"base_model={model}", f"eval={file}", f"posttrain.out={here}/out.json", *arguments])
        return verb.evaluate_model(job.read_job(asked))

    return run


def test_answers_are_graded_and_graded_again_by_another_reward(evaluate, here, reward_file, capsys):
    with pytest.raises(InputError, match="has no reward"):
        evaluate()
    first = evaluate(WORD)
    assert json.loads((here / "out.json").read_text()) == first
    assert first["metrics"]["reward"]["value"] == pytest.approx(0.1) and "accuracy" not in first["metrics"]
    assert first["reward"].startswith("my_reward.py:score ")
    asked = len((here / "asked.jsonl").read_text().splitlines())
    again = evaluate(WORD, "reward_kwargs.partial=0.4")
    assert again["metrics"]["reward"]["value"] == pytest.approx(0.4) and again["reward"] != first["reward"]
    assert len((here / "asked.jsonl").read_text().splitlines()) == asked == 20, "no question is asked again"
    comparison.print_evaluation(again, verb.stdout())
    assert "graded by my_reward.py:score" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("body", "message"),
    [("def compute_score(answers): return 1", "missing a required argument: 'answers'"),
     ("raise ValueError('no')", "ValueError: no")],
)  # fmt: skip
def test_a_reward_that_fails_says_so_and_keeps_the_answers(evaluate, reward_file, body, message, here):
    with pytest.raises(InputError, match=message):
        evaluate(f"reward={reward_file(body)}")
    assert (here / "asked.jsonl").exists() == ("raise" in body)
