"""The verb: its options, the machines it refuses, and the two files that it writes whatever happens."""

import json
from importlib import import_module

import pytest

from posttrain_verl.machine.devices import Machine, MachineFacts
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import FirstGpuHour

verb = import_module("posttrain_verl.first_gpu_hour.__main__")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


@pytest.mark.parametrize("mode", ["full", "short"])
def test_where_everything_fails_the_report_and_its_json_say_so(mode, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb.devices, "detect_machine", lambda: Machine("cpu", "no GPU of NVIDIA"))
    limits = []

    def failing(command, seconds, log):
        limits.append(seconds)
        log.write_text("Traceback\nRuntimeError: planted")
        return 1

    assert verb.run(read(FirstGpuHour, [f"mode={mode}", "minutes=2", "out=mine.md"]), failing) == 1
    assert limits and max(limits) <= 120
    assert (tmp_path / "mine.md").read_text().startswith("# First GPU hour: failed")
    found = json.loads((tmp_path / "mine.json").read_text())
    assert found["verdict"] == "failed" and not found["on_a_gpu"]
    assert "RuntimeError: planted" in capsys.readouterr().out


def test_gpus_that_cannot_be_used_are_no_cpu(monkeypatch):
    class Broken(Machine):
        trouble = Problem("the driver is too old", "install a newer one")

    monkeypatch.setattr(verb.devices, "detect_machine", lambda: Broken("cpu", "", MachineFacts()))
    with pytest.raises(InputError, match="the driver is too old"):
        verb.run(FirstGpuHour(mode="short"), lambda *_: pytest.fail("something was started"))


def test_each_mode_has_its_time():
    assert {name: mode.minutes for name, mode in verb.MODES.items()} == {"full": 60, "short": 12}
