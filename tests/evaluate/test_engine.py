"""How an engine is kept filled, with an engine that finishes its oldest request at each step."""

import json
from types import SimpleNamespace

import pytest

from posttrain_verl.evaluate import engine
from posttrain_verl.evaluate.engine import Work, rolling_answers


class Oldest:
    def __init__(self):
        self.requests, self.most = [], 0

    def add_request(self, name, prompt, parameters):
        self.requests.append((name, len(prompt["prompt_token_ids"]), parameters))
        self.most = max(self.most, len(self.requests))

    def step(self):
        name, length, left = self.requests.pop(0)
        said = SimpleNamespace(text=f"{length}", token_ids=[0] * left, finish_reason="length" if left < 9 else "stop")
        return [
            SimpleNamespace(finished=False),
            SimpleNamespace(finished=True, request_id=f"{name}-0a1b", outputs=[said]),
        ]


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(engine, "_sampling_parameters", lambda work, left, name, sample: left)

    def answers(lengths, samples=(0,), room=20, **options):
        asked = [(f"q/{n}", [], list(samples)) for n in range(len(lengths))]
        work = Work("m", asked, 0.0, 1.0, 9, 0, **options)
        one = Oldest()
        return one, list(rolling_answers(one, work, {f"q/{n}": [1] * length for n, length in enumerate(lengths)}, room))

    return answers


def test_everything_asked_is_answered_a_few_at_a_time(run):
    one, found = run([3] * 10, samples=(0, 1), at_once=4)
    assert sorted((answer.id, answer.sample) for answer in found) == [
        (f"q/{n}", sample) for n in range(10) for sample in (0, 1)
    ]
    assert one.most <= 5, "a question is begun whole"
    assert {(answer.tokens, answer.truncated) for answer in found} == {(9, False)}


def test_a_prompt_that_fills_the_context_leaves_less_or_no_room(run):
    _, found = run([3, 15, 20, 30])
    assert {answer.id: (answer.tokens, answer.truncated) for answer in found} == {
        "q/0": (9, False), "q/1": (5, True), "q/2": (0, True), "q/3": (0, True)}  # fmt: skip


def test_after_the_time_is_over_only_what_was_begun_is_finished(run):
    one, found = run([3] * 10, samples=(0, 1), at_once=4, seconds=-1)
    assert found == [] and one.most == 0
    _, found = run([3] * 3, at_once=4, seconds=100)
    assert len(found) == 3


def test_no_sequence_is_longer_than_vllm_can_build_the_model_for(tmp_path):
    dual_chunk = {"chunk_size": 64, "local_size": 8, "original_max_position_embeddings": 64}
    config = {"model_type": "qwen2", "max_position_embeddings": 4096, "dual_chunk_attention_config": dual_chunk}
    (tmp_path / "config.json").write_text(json.dumps(config))
    work = Work(str(tmp_path), [], 0.0, 1.0, max_tokens=40, seed=0)
    assert engine._context_length(work, longest=10) == 50
    assert engine._context_length(work, longest=30) == 64
