"""The verb from its words to its files, with an engine that needs no model: every second answer of it is wrong."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from omegaconf import OmegaConf

import data_prep
from data_prep import schema
from posttrain_verl import inspect, mixes
from posttrain_verl.evaluate.replicas import EngineFailed
from posttrain_verl.synthesize import __main__ as verb
from posttrain_verl.synthesize.questions import find_questions
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Inspect, Synthesize
from reward_fns.own import OwnReward


def digests(folder) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.iterdir()) if file.suffix in (".parquet", ".json")}  # fmt: skip


def test_right_answers_become_solutions_pairs_and_rates(synthesize, sums, rows, tmp_path):
    manifest = synthesize(sums(40), "n=4", "pairs=2", "near_duplicate=0", "val=0.2")
    solutions, pairs, held_out, rates = (rows(name) for name in ("sft_train", "pairs_train", "pairs_val", "rates"))
    assert len(solutions) == 80 and len(pairs) + len(held_out) == 80 and len(rates) == 40
    assert pq.read_schema(tmp_path / "data/out/pairs_train.parquet").equals(schema.PAIRS.schema)
    assert [turn["role"] for turn in solutions[0]["messages"]] == ["user", "assistant"]
    assert solutions[0]["messages"][0]["content"] == "10+20="
    assert solutions[0]["messages"][1]["content"] == "10+20=30\n#### 30"
    first = next(row for row in (*pairs, *held_out) if row["extra_info"]["id"].startswith("sum/0#"))
    assert first["prompt"] == [{"role": "user", "content": "10+20="}]
    assert first["chosen"] == [{"role": "assistant", "content": "10+20=30\n#### 30"}]
    assert first["rejected"] == [{"role": "assistant", "content": "10+20=31\n#### 31"}]
    questions = [{row["extra_info"]["id"].partition("#")[0] for row in part} for part in (pairs, held_out)]
    assert not questions[0] & questions[1] and len(questions[1]) > 2, "a question is on one side only"
    assert (rates[3]["id"], rates[3]["question"], rates[3]["answer"]) == ("sum/3", "13+23=", "36")
    assert (rates[3]["n"], rates[3]["right"], rates[3]["rate"]) == (4, 2, 0.5)
    assert 0.1 < rates[3]["low"] < 0.5 < rates[3]["high"] < 0.9

    answers = manifest["answers"]
    assert (answers["n"], answers["right"], answers["wrong"], answers["acceptance"]) == (160, 80, 80, 0.5)
    assert answers["tokens"] == 160 * 7
    assert manifest["by_difficulty"]["2"]["questions"] == 13
    assert manifest["sources"]["sums"]["rows_in"] == 160 and manifest["sources"]["sums"]["drops"] == {"wrong": 80}
    assert manifest["pairs"]["lengths"]["difference"] == 0
    assert manifest["teacher"]["model"].endswith("/model") and manifest["teacher"]["fingerprint"]
    assert data_prep.verify(tmp_path / "data/out") == []


def test_equal_answers_are_one_solution(synthesize, sums, rows):
    manifest = synthesize(sums(10), "n=4")
    assert len(rows("sft_train")) == 10
    assert manifest["sources"]["sums"]["drops"] == {"wrong": 20, "near_duplicate": 10}


def test_the_same_answers_give_the_same_bytes_and_another_selection_asks_nothing(synthesize, sums, fake, tmp_path):
    file, out = sums(20), tmp_path / "data/out"
    synthesize(file, "n=4")
    first, asked = digests(out), len(fake())
    synthesize(file, "n=4", "pairs=2", "near_duplicate=0")
    assert digests(out) != first
    synthesize(file, "n=4")
    assert digests(out) == first and len(fake()) == asked
    answers = (out / "answers.jsonl").read_text().splitlines()
    (out / "answers.jsonl").write_text("\n".join([answers[0], *answers[:0:-1]]) + "\n")
    (out / "manifest.json").unlink()
    synthesize(file, "n=4")
    assert digests(out) == first, "in whatever order they came"


def test_more_answers_ask_only_for_those_that_are_missing(synthesize, sums, fake):
    file = sums(5)
    synthesize(file, "n=2")
    synthesize(file, "n=4")
    assert [samples for _, _, samples in fake()] == [[0, 1]] * 5 + [[2, 3]] * 5


def test_a_finished_set_is_kept_with_its_approval(synthesize, sums, fake, tmp_path):
    file = sums(5)
    manifest = synthesize(file, "n=2")
    data_prep.manifest.write_manifest(tmp_path / "data/out", manifest | {"inspected": [{"who": "me"}]})
    assert synthesize(file, "n=2")["inspected"] == [{"who": "me"}]
    assert synthesize(file, "n=2", "--force")["inspected"] == []
    assert len(fake()) == 10


def test_an_engine_that_ends_early_loses_nothing(synthesize, sums, fake, monkeypatch, tmp_path):
    file = sums(20)
    monkeypatch.setenv("FAKE_DIES", "11")
    with pytest.raises(EngineFailed, match=r"no room for the weights; the log is .*engine\.log"):
        synthesize(file, "n=2")
    assert not (tmp_path / "data/out/manifest.json").exists()
    monkeypatch.delenv("FAKE_DIES")
    assert synthesize(file, "n=2")["answers"]["n"] == 40
    assert sum(len(samples) for _, _, samples in fake()) <= 12 + 29, "11 of 40 were there"


def test_a_call_that_was_killed_while_it_wrote_is_completed_by_the_same_one(synthesize, sums, tmp_path):
    file, out = sums(20), tmp_path / "data/out"
    synthesize(file, "n=2")
    whole = digests(out)
    (out / "manifest.json").unlink()
    (out / "rates.parquet").unlink()
    (out / "sft_train.parquet").write_bytes(b"PAR1")
    (out / ".building-x").mkdir()
    synthesize(file, "n=2")
    assert digests(out) == whole and not (out / ".building-x").exists()


def test_a_killed_call_continues(fake, sums, model, tmp_path):
    command = [sys.executable, "-m", "posttrain_verl.synthesize", f"mix={sums(30)}", f"base_model={model}", "n=2", "name=out",
               f"posttrain.data_dir={tmp_path}/data"]  # fmt: skip
    answers = tmp_path / "data/out/answers.jsonl"
    environ = {**os.environ, "FAKE_SECONDS": "0.2"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (answers.exists() and len(answers.read_text().splitlines()) > 4):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    there = len(answers.read_text().splitlines()) - 1
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "30 questions, 60 answers: 30 right, 30 wrong" in done.stdout
    whole = len(answers.read_text().splitlines()) - 1
    assert whole == 60 and 0 < there < 60


def test_two_calls_into_one_folder(synthesize, sums, tmp_path):
    (tmp_path / "data/out").mkdir(parents=True)
    with FileLock(tmp_path / "data/out/.lock"), pytest.raises(InputError, match="another call writes into") as error:
        synthesize(sums(5), "n=2")
    assert "name=NAME" in str(error.value)


def test_damaged_lines_are_asked_for_again(synthesize, sums, fake, tmp_path):
    file, answers = sums(5), tmp_path / "data/out/answers.jsonl"
    synthesize(file, "n=2")
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join([*lines[:3], lines[3][:20], "7", *lines[5:]]) + "\n")
    assert synthesize(file, "n=2", "keep=1")["answers"]["n"] == 10
    assert sum(len(samples) for _, _, samples in fake()) == 12


@pytest.mark.parametrize("head", ["7", "not json", "[1]"])
def test_answers_below_a_damaged_first_line_are_not_dropped(synthesize, sums, tmp_path, head):
    file, answers = sums(5), tmp_path / "data/out/answers.jsonl"
    synthesize(file, "n=2")
    rest = answers.read_text().partition("\n")[2]
    answers.write_text(f"{head}\n{rest}")
    with pytest.raises(InputError, match=r"first line of .*answers\.jsonl is damaged"):
        synthesize(file, "n=2", "keep=1")
    assert answers.read_text() == f"{head}\n{rest}"


def test_a_disk_that_is_full_is_one_line(monkeypatch, sums, model, fake, tmp_path, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x.jsonl")

    monkeypatch.setattr(verb, "write_set", full)
    words = [f"mix={sums(5)}", f"base_model={model}", "n=2", "name=out", f"posttrain.data_dir={tmp_path}/data"]
    assert command_line.main(Synthesize, verb.run, words) == 1
    assert "nothing more can be written (x.jsonl): No space left on device; " in capsys.readouterr().err


def test_answers_of_another_sampling_are_not_written_over(synthesize, sums, fake, tmp_path):
    file = sums(5)
    synthesize(file, "n=2")
    before = (tmp_path / "data/out/answers.jsonl").read_text()
    with pytest.raises(InputError, match="differs in max_tokens, temperature"):
        synthesize(file, "n=2", "temperature=0.5", "max_tokens=9")
    assert (tmp_path / "data/out/answers.jsonl").read_text() == before
    assert synthesize(file, "n=2", "temperature=0.5", "--force")["answers"]["n"] == 10


def test_the_build_of_a_mix_is_not_written_over(synthesize, sums, tmp_path):
    data_prep.manifest.write_manifest(
        (tmp_path / "data/out").mkdir(parents=True) or tmp_path / "data/out", {"files": {}}
    )
    with pytest.raises(InputError, match="holds data that synthesize did not write"):
        synthesize(sums(5), "n=2")


def test_a_teacher_whose_answers_are_all_wrong_leaves_no_data_set(synthesize, sums, tmp_path, monkeypatch, capsys):
    file = sums(5)
    table = pq.read_table(file).to_pylist()
    for row in table:
        row["reward_model"]["ground_truth"] = "7"
    pq.write_table(type(pq.read_table(file)).from_pylist(table, schema=schema.RL.schema), file)
    with pytest.raises(verb.NothingUsable) as failed:
        synthesize(file, "n=2")
    said = str(failed.value)
    assert said.startswith(
        "no answer of 10 can be used (10 wrong, 0 undecided; 0 of all were cut off): no data set is written"
    )
    assert "e.g. sum/0" in said and "try another model" in said and failed.value.code == 1 and not failed.value.resumes
    assert sorted(file.name for file in (tmp_path / "data/out").iterdir()) == [".lock", "answers.jsonl", "engine.log"]


def test_a_stratified_sample_of_the_questions(synthesize, sums):
    manifest = synthesize(sums(60), "n=2", "rows=12")
    assert {name: each["questions"] for name, each in manifest["by_difficulty"].items()} == {"0": 4, "1": 4, "2": 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keep=9"], "keep=9 is more than the n=8 answers"),
        (["temperature=0"], "would draw the same answer 8 times"),
        (["endpoint=http://x/v1"], "one of base_model=, run= and endpoint= is needed"),
        (["endpoint=nowhere"], "endpoint=nowhere is not an address"),
        (["keep=0", "pairs=0"], "select nothing"),
        (["also_reject=wrong"], "wrong is not known"),
        (["name=a/b"], "name=a/b is not a name"),
    ],
)
def test_contradictions_are_named(synthesize, sums, words, said):
    with pytest.raises(InputError, match=said):
        synthesize(sums(2), *words)


def test_a_row_filter_drops_a_right_answer_with_a_false_step(synthesize, sums, rows, tmp_path, monkeypatch):
    file = sums(6)
    synthesize(file, "n=2")
    answers = tmp_path / "data/out/answers.jsonl"
    answers.write_text(answers.read_text().replace("10+20=30\\n####", "10+10=30, 10+20=30\\n####"))
    (tmp_path / "data/out/manifest.json").unlink()
    manifest = synthesize(file, "n=2")
    assert manifest["sources"]["sums"]["drops"] == {"wrong": 6, "false_step": 1}
    assert [row["id"] for row in rows("dropped")] == ["sum/0#0"]
    assert not [
        row for row in (*rows("sft_train"), *rows("pairs_train")) if row["extra_info"]["id"].startswith("sum/0#")
    ]
    assert rows("rates")[0]["rate"] == 0.5, "it is right all the same"


def test_a_summary_is_printed_and_json_holds_the_manifest(sums, model, fake, tmp_path, capsys):
    words = [f"mix={sums(10)}", f"base_model={model}", "n=2", "name=out", f"posttrain.data_dir={tmp_path}/data"]
    assert command_line.main(Synthesize, verb.run, words) == 0
    said = capsys.readouterr().out
    assert "10 questions, 20 answers: 10 right, 10 wrong, 0 undecided; 140 tokens" in said
    assert "mean difference +0.0" in said and "not compared with aime24" in said
    assert command_line.main(Synthesize, verb.run, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"]["right"] == 10


def test_a_set_of_an_earlier_version_is_described(synthesize, sums, tmp_path):
    manifest = synthesize(sums(20), "n=4")
    said = verb.describe_set(tmp_path, manifest)
    assert " are longer and " in said
    del manifest["answers"]["no_text"], manifest["pairs"]["lengths"]["shorter"]
    manifest["pairs"]["lengths"]["longer"] = 0.5
    assert "mean difference" in verb.describe_set(tmp_path, manifest)


def test_inspect_shows_its_rows_and_approval_counts(synthesize, sums, tmp_path, monkeypatch, capsys):
    synthesize(sums(20), "n=4", "near_duplicate=0", "val=0.2")
    monkeypatch.chdir(tmp_path)
    for given in ("mix=out", f"mix={tmp_path}/data/out"):
        assert command_line.main(Inspect, inspect.run, [given, "rows=2", "--approve", "--who", "me"]) == 0
    said = capsys.readouterr().out
    assert "pairs_train #" in said and "pairs_val #" in said and "sft_train #" in said and "approved by me" in said
    assert [entry["who"] for entry in data_prep.read_manifest(tmp_path / "data/out")["inspected"]] == ["me", "me"]
    assert data_prep.verify(tmp_path / "data/out") == []
    assert "rejected" in (tmp_path / "data/out/inspection.html").read_text()


def test_a_mix_that_is_there_is_not_built_again(tmp_path, monkeypatch):
    """Also where a run's own reward grades: somebody may have approved it."""
    choice = mixes.choose_mix("embedded", str(tmp_path), ["sources.sums.size=2000", "splits.rl_train.rows=50",
                                                          "splits.sft_train.rows=50"])  # fmt: skip
    mixes.build_mix(choice)
    mix = tmp_path / "mine.yaml"
    OmegaConf.save(OmegaConf.create(choice.config), mix)
    before = (choice.folder / "manifest.json").stat().st_mtime_ns
    found = find_questions(str(mix), tmp_path, OwnReward("/nosuch.py", "score"))
    assert found.file == choice.folder / "rl_train.parquet" and found.name == "embedded"
    assert (choice.folder / "manifest.json").stat().st_mtime_ns == before
