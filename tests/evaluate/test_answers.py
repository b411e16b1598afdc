"""The file that a killed evaluation goes on from."""

from posttrain_verl.evaluate.result import Answer, AnswerLog, model_fingerprint

FIRST, SECOND = Answer("a", 0, "1 + 1 = 2\n#### 2", 9, False), Answer("a", 1, "\u2028 odd \x85 text", 3, True)


def test_answers_come_back_in_another_call(tmp_path):
    path = tmp_path / "deep" / "x.answers.jsonl"
    with AnswerLog(path, {"model": "m"}) as log:
        log.add(FIRST)
        log.add(SECOND)
    with AnswerLog(path, {"model": "m"}) as log:
        assert log.done == {("a", 0): FIRST, ("a", 1): SECOND}


def test_half_a_line_is_dropped_and_written_over(tmp_path):
    path = tmp_path / "x.answers.jsonl"
    with AnswerLog(path, {"model": "m"}) as log:
        log.add(FIRST)
    whole = path.read_text()
    path.write_text(whole + '{"id": "a", "sample": 1, "te')
    with AnswerLog(path, {"model": "m"}) as log:
        assert list(log.done) == [("a", 0)]
        log.add(SECOND)
    with AnswerLog(path, {"model": "m"}) as log:
        assert log.done == {("a", 0): FIRST, ("a", 1): SECOND}


def test_answers_of_another_model_or_sampling_do_not_count(tmp_path):
    path = tmp_path / "x.answers.jsonl"
    with AnswerLog(path, {"model": "m", "temperature": 0.0}) as log:
        log.add(FIRST)
    with AnswerLog(path, {"model": "m", "temperature": 1.0}) as log:
        assert not log.done
    with AnswerLog(path, {"model": "m", "temperature": 0.0}) as log:
        assert not log.done, "the file was written over"


def test_a_model_that_took_anothers_place_is_another(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = model_fingerprint(tmp_path)
    assert model_fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert model_fingerprint(tmp_path) != before
    assert model_fingerprint("Org/Model") == "Org/Model"
