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
from posttrain_verl.terminal.problem import InputError, WorkFailed
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


@pytest.fixture
def shown(words, monkeypatch):
    """A built mix, and a model that needs no download."""
    monkeypatch.setattr(inspect_verb, "chat_template", lambda name: lambda messages: [("x", False, 1)])
    built(words)
    return words


def approve(words, monkeypatch, *answers, options=()):
    """What `inspect --approve` asks on a terminal whose user gives these answers."""
    left, asked = list(answers), []

    def answer(question: str) -> str:
        asked.append(question)
        return left.pop(0)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(inspect_verb, "_ask", answer)
    inspect_verb.run(read(Inspect, [*words, "rows=1", "--approve", *options]))
    assert not left
    return asked


def test_a_terminal_is_asked_and_the_page_says_who_approved_and_whose_tokens_are_counted(
    shown, tmp_path, monkeypatch, capsys
):
    asked = approve(shown, monkeypatch, "y", "Ada L.")
    assert "5 rows shown, 0 with flags. Approve" in asked[0] and f"[{inspect_verb._login_name()}]" in asked[1]
    approve(shown, monkeypatch, "yes", "")
    assert approve(shown, monkeypatch, "y", options=["--who", "Bob"]) == [asked[0]]
    folder = tmp_path / "embedded"
    entries = json.loads((folder / "manifest.json").read_text())["inspected"]
    assert [each["who"] for each in entries] == ["Ada L.", inspect_verb._login_name(), "Bob"]
    page = (folder / "inspection.html").read_text()
    assert f"Ada L., {entries[0]['when']};" in page and "tokens are those of the model nano_2m" in page
    assert "tokens are those of base_model=nano_2m" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["n", "", "why"])
def test_what_is_not_approved_is_not_recorded(shown, tmp_path, monkeypatch, answer):
    with pytest.raises(WorkFailed, match="not approved"):
        approve(shown, monkeypatch, answer)
    assert json.loads((tmp_path / "embedded" / "manifest.json").read_text())["inspected"] == []


def test_without_any_name_nothing_is_approved(shown, monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(inspect_verb.getpass, "getuser", nobody)
    with pytest.raises(InputError, match="--who NAME"):
        approve(shown, monkeypatch, "y", "")


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
