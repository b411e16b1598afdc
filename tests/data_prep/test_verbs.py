"""The verbs prep and inspect: words in, exit codes and files out."""

import json
import os
import socket
import subprocess
import sys

import pytest

from posttrain_verl import inspect as inspect_verb
from posttrain_verl import prep
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Inspect, Prep


def built(words, *options):
    return prep.run(read(Prep, [*words, *options]))


@pytest.fixture
def words(tmp_path):
    return ["mix=embedded", f"posttrain.data_dir={tmp_path}", "splits.rl_train.rows=100",
            "posttrain.mix.splits.sft_train.rows=50",
            "sources.sums.size=8000"]  # fmt: skip


def test_build_verify_and_build_only_once(words, tmp_path, capsys):
    assert built(words) == 0
    manifest = tmp_path / "embedded" / "manifest.json"
    made = manifest.stat().st_mtime_ns
    assert built(words, "--json") == 0 and manifest.stat().st_mtime_ns == made
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["manifest"]["files"]["rl_train.parquet"]["rows"] == 100
    assert built(words, "--verify") == 0
    (tmp_path / "embedded" / "test.parquet").write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        built(words, "--verify")
    assert "sha256" in str(caught.value)
    assert built(words, "--force") == 0 and built(words, "--verify") == 0


@pytest.mark.parametrize(
    "wrong", [["mix=embeded"], ["embedded"], ["mix=embedded", "splits.rl_train.rows=-1"], ["mix=embedded", "sede=3"]]
)
def test_wrong_words_end_with_code_2_and_no_traceback(wrong, tmp_path):
    command = [sys.executable, "-m", "posttrain_verl.prep", *wrong, f"posttrain.data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "problem" in done.stderr and "Traceback" not in done.stderr


def test_inspect_writes_a_page_and_records_the_approval(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        inspect_verb, "chat_template", lambda name: lambda messages: [(messages[0]["content"], False, 1)]
    )
    with pytest.raises(InputError, match="nothing to look at"):
        inspect_verb.run(read(Inspect, words))
    built(words)
    assert inspect_verb.run(read(Inspect, [*words, "rows=2", "--approve", "--who", "Ada"])) == 0
    folder = tmp_path / "embedded"
    assert "<html" in (folder / "inspection.html").read_text()
    entry = json.loads((folder / "manifest.json").read_text())["inspected"][0]
    assert entry["who"] == "Ada" and entry["rows"] == 10
    assert built(words, "--verify") == 0


def test_verify_finds_any_changed_byte_and_files_too_many(words, tmp_path):
    built(words)
    folder = tmp_path / "embedded"
    for path in sorted([*folder.glob("*.parquet"), folder / "manifest.json"]):
        whole = path.read_bytes()
        for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(InputError, match=path.name):
                built(words, "--verify")
        path.write_bytes(whole)
    (folder / "more.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="not in the manifest"):
        built(words, "--verify")
    (folder / "more.parquet").unlink()
    assert built(words, "--verify") == 0


def test_what_a_killed_build_left_is_swept_away_and_a_running_one_is_not(words, tmp_path):
    folder, host = tmp_path / "embedded", socket.gethostname()
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for pid in (killed.pid, os.getpid()):
        (folder / f".building-{host}-{pid}-x").mkdir(parents=True)
    built(words)
    assert [path.name for path in folder.glob(".building-*")] == [f".building-{host}-{os.getpid()}-x"]


def test_a_folder_that_cannot_be_written_is_named(words, tmp_path):
    (tmp_path / "embedded").write_text("a file")
    with pytest.raises(InputError, match=r"posttrain\.data_dir"):
        built(words)
