"""What is done is not done again, the gate waits, and the best checkpoint goes on."""

import json

import pytest
from omegaconf import OmegaConf

from posttrain_verl.pipelines import spec as specs
from posttrain_verl.pipelines import stages
from posttrain_verl.pipelines.journal import Journal
from posttrain_verl.problem import InputError
from posttrain_verl.run.folder import DONE, INTERRUPTED, RunFolder, Status


@pytest.fixture
def it(tmp_path):
    spec = specs.read(["recipe=demo", "hardware=cpu", f"posttrain.data_dir={tmp_path}/data"])
    return stages.Pipeline(spec, tmp_path, Journal(tmp_path, {"name": "demo"}), say=lambda line: None)


def trained(run: RunFolder, state: str, steps=()) -> None:
    run.path.mkdir(parents=True)
    run.write_config(OmegaConf.create({}))
    run.write_status(Status(state))
    for step in steps:
        folder = run.checkpoints / f"global_step_{step}"
        (folder / "huggingface").mkdir(parents=True)
        (folder / "huggingface" / "config.json").write_text("{}")
        (folder / "huggingface" / "model.safetensors").write_bytes(b"")


def started(monkeypatch) -> list[list[str]]:
    """The commands that would be run."""
    commands: list[list[str]] = []

    def follow(it, run, command, ends):
        commands.append(command[3:])
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_status(Status(DONE))
        return 0

    monkeypatch.setattr(stages, "follow", follow)
    return commands


def test_a_run_is_launched_gone_on_with_or_left(it, monkeypatch):
    commands = started(monkeypatch)
    stages.sft(it)
    launched = commands.pop()
    assert launched[0] == "recipe=demo_sft"
    assert launched[-1] == "posttrain.watch.retries=1", "nobody looks on"
    stages.sft(it)
    assert not commands, "it is done"
    it.run_of("sft").write_config(OmegaConf.create({}))
    it.run_of("sft").write_status(Status(INTERRUPTED))
    stages.sft(it)
    assert commands.pop() == [f"run={it.run_of('sft').path}"]


def test_retries_that_the_user_named_stay(it, monkeypatch):
    commands = started(monkeypatch)
    it.spec.words["all"].append("posttrain.watch.retries=0")
    stages.sft(it)
    assert [word for word in commands.pop() if word.startswith("posttrain.watch.")] == ["posttrain.watch.retries=0"]


def test_a_run_that_its_plateau_ended_is_done(it, monkeypatch):
    commands = started(monkeypatch)
    trained(it.run_of("sft"), INTERRUPTED)
    (it.home / "plateau.json").write_text("{}")
    stages.sft(it)
    assert not commands


def test_a_launch_that_fails_ends_the_pipeline(it, monkeypatch):
    monkeypatch.setattr(stages, "follow", lambda *_: 1)
    with pytest.raises(stages.StageFailed, match="sft ended with exit code 1"), it.journal.stage("sft"):
        stages.sft(it)
    assert [stage["state"] for stage in json.loads((it.home / "pipeline.json").read_text())["stages"]] == ["failed"]


def test_the_checkpoint_with_most_right_answers_goes_on(it, monkeypatch):
    trained(it.run_of("sft"), DONE, steps=(10, 20, 30))
    monkeypatch.setattr(stages, "held_out", lambda it, folder, step: {10: 0.2, 20: 0.5, 30: 0.4}[step])
    stages.choose(it)
    assert stages.chosen(it) == it.run_of("sft").checkpoints / "global_step_20" / "huggingface"
    monkeypatch.setattr(stages, "held_out", lambda *_: pytest.fail("it was chosen already"))
    stages.choose(it)


def test_of_the_exported_checkpoints_the_chosen_one_stays(it, monkeypatch):
    run = it.run_of("sft")
    trained(run, DONE, steps=(10, 20))
    (run.checkpoints / "global_step_30").mkdir()  # what a plateau ended in the middle of

    def exported(run, stage, step, report):
        folder = stages.cache_of(run, step)
        folder.mkdir()
        return folder

    monkeypatch.setattr(stages, "weights_of", exported)
    monkeypatch.setattr(stages, "held_out", lambda it, folder, step: {10: 0.5, 20: 0.2}[step])
    stages.choose(it)
    assert stages.chosen(it) == run.path / "weights-10"
    assert [path.name for path in run.path.glob("weights-*")] == ["weights-10"]


def test_rl_starts_from_the_chosen_checkpoint_whatever_model_was_named(it, monkeypatch):
    commands = started(monkeypatch)
    trained(it.run_of("sft"), DONE, steps=(10,))
    it.spec.words["all"].append("base_model=tiny")
    stages.choose(it)
    stages.rl(it)
    assert [word for word in commands[0] if word.startswith("base_model=")] == [f"base_model={stages.chosen(it)}"]


def test_the_gate_waits_for_somebody_to_look(it):
    stages.prep(it)
    stages.inspect(it)
    strict = stages.Pipeline(specs.read(["recipe=demo", "hardware=cpu", "require_inspected=true",
                                         f"posttrain.data_dir={it.home}/data"]), it.home, it.journal, it.say)  # fmt: skip
    with pytest.raises(InputError, match="inspect mix=embedded --approve"):
        stages.inspect(strict)


def test_validations_on_a_plateau_end_the_run_once(it, tmp_path):
    strict = stages.Pipeline(specs.read(["recipe=math", "hardware=cpu"]), tmp_path, it.journal, it.say)
    assert not stages.on_plateau(strict, [2.0, 1.0, 0.5])
    assert stages.on_plateau(strict, [2.0, 1.0, 1.0, 1.1])
    assert stages.is_trained(strict, "sft")
