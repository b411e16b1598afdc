"""What is done is not done again, the gate waits, and the best checkpoint is continued from."""

import json

import pytest
from omegaconf import OmegaConf

from posttrain_verl.pipeline import entry, stages, training
from posttrain_verl.pipeline.entry import Journal
from posttrain_verl.pipeline.reading import read_spec
from posttrain_verl.pipeline.training import Plateau, follow_launch
from posttrain_verl.run.folder import DONE, INTERRUPTED, RunFolder, Status
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Pipeline


def begun(home, *overrides):
    spec = read_spec(read(Pipeline, [*overrides, "hardware=cpu", f"posttrain.data_dir={home}/data"]))
    return entry.Pipeline(spec, home, Journal(home, {"name": "demo"}))


@pytest.fixture
def it(tmp_path):
    return begun(tmp_path, "recipe=demo")


@pytest.fixture
def sft(it):
    return it.spec.stages[0]


def trained(run: RunFolder, state: str, steps=()) -> None:
    run.path.mkdir(parents=True)
    run.write_config(OmegaConf.create({}))
    run.write_plan({"stage": "sft"})
    run.write_status(Status(state))
    for step in steps:
        folder = run.checkpoints / f"global_step_{step}"
        (folder / "huggingface").mkdir(parents=True)
        (folder / "huggingface" / "config.json").write_text("{}")
        (folder / "huggingface" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def started(monkeypatch) -> list[list[str]]:
    """The commands that would be run."""
    commands: list[list[str]] = []

    def follow(run, command, rule, mark):
        commands.append(command[3:])
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_status(Status(DONE))
        return 0

    monkeypatch.setattr(training, "follow_launch", follow)
    return commands


def test_a_run_is_launched_resumed_or_left(it, sft, monkeypatch):
    commands = started(monkeypatch)
    sft.train(it)
    launched = commands.pop()
    assert launched[0] == "recipe=demo_sft"
    assert launched[-1] == "posttrain.watch.retries=1", "nobody looks on"
    sft.train(it)
    assert not commands, "it is done"
    sft.run_of(it).write_config(OmegaConf.create({}))
    sft.run_of(it).write_status(Status(INTERRUPTED))
    sft.train(it)
    assert commands.pop() == [f"run={sft.run_of(it).path}"]


def test_retries_that_the_user_named_stay(it, sft, monkeypatch):
    commands = started(monkeypatch)
    it.spec.overrides.append("posttrain.watch.retries=0")
    sft.train(it)
    assert [each for each in commands.pop() if each.startswith("posttrain.watch.")] == ["posttrain.watch.retries=0"]


def test_with_a_plateau_every_validation_has_its_checkpoint(tmp_path, monkeypatch):
    commands = started(monkeypatch)
    it = begun(tmp_path, "recipe=demo", "plateau.patience=3")
    it.spec.stages[0].train(it)
    assert {"trainer.test_freq=160", "trainer.max_ckpt_to_keep=4"} <= set(commands.pop())


def test_a_run_that_its_plateau_ended_is_done(it, sft, monkeypatch):
    commands = started(monkeypatch)
    trained(sft.run_of(it), INTERRUPTED)
    sft.plateau_file(it).write_text("{}")
    sft.train(it)
    assert not commands


def test_a_launch_that_fails_ends_the_pipeline(it, sft, monkeypatch):
    monkeypatch.setattr(training, "follow_launch", lambda *_: 1)
    with pytest.raises(entry.StageFailed, match="sft ended with exit code 1"), it.journal.stage("sft"):
        sft.train(it)
    assert [stage["state"] for stage in json.loads((it.home / "pipeline.json").read_text())["stages"]] == ["failed"]


@pytest.fixture
def questions(it):
    """Held-out questions, as `prep` leaves them."""
    file = it.launches()[1].data_dir / "rl_val.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    return file


def answers(monkeypatch, right: dict[int, float]) -> list:
    """Let checkpoints answer so many questions right; returns the questions that are asked."""
    asked = []

    def accuracy(self, model, questions, label, out):
        asked.append(questions)
        return right[int(label.removeprefix("step-"))]

    monkeypatch.setattr(entry.Pipeline, "evaluate_model", accuracy)
    return asked


def test_the_checkpoint_with_most_right_answers_is_chosen(it, sft, questions, monkeypatch):
    trained(sft.run_of(it), DONE, steps=(10, 20, 30))
    asked = answers(monkeypatch, {10: 0.2, 20: 0.5, 30: 0.4})
    sft.choose(it)
    assert sft.chosen(it) == (sft.run_of(it).checkpoints / "global_step_20" / "huggingface", 20)
    assert asked == [str(questions)] * 3
    sft.choose(it)
    assert len(asked) == 3, "it was chosen already"


def test_without_held_out_questions_the_newest_checkpoint_is_chosen(it, sft, monkeypatch, told):
    trained(sft.run_of(it), DONE, steps=(10, 20))
    sft.choose(it)
    assert sft.chosen(it).step == 20
    assert told[-1] == "the checkpoints of sft have no held-out questions; step 20 is chosen"


def test_a_stage_without_a_checkpoint_names_the_key(it, sft):
    trained(sft.run_of(it), DONE)
    with pytest.raises(InputError, match=r"sft leaves nothing to continue from[\s\S]*set sft:trainer.save_freq"):
        sft.choose(it)


def test_of_the_exported_checkpoints_the_chosen_one_stays(it, sft, questions, monkeypatch):
    run = sft.run_of(it)
    trained(run, DONE, steps=(10, 20))
    (run.checkpoints / "global_step_30").mkdir()  # what a plateau ended in the middle of

    def exported(run, step):
        folder = training.weights_folder(run, step)
        folder.mkdir()
        return folder

    monkeypatch.setattr(training, "ensure_weights", exported)
    answers(monkeypatch, {10: 0.5, 20: 0.2})
    sft.choose(it)
    assert sft.chosen(it).folder == run.path / "weights-10"
    assert [path.name for path in run.path.glob("weights-*")] == ["weights-10"]


def test_the_next_stage_begins_at_the_chosen_checkpoint_whatever_model_was_named(it, sft, monkeypatch):
    commands = started(monkeypatch)
    trained(sft.run_of(it), DONE, steps=(10,))
    it.spec.overrides.append("base_model=tiny")
    sft.choose(it)
    it.spec.stages[1].train(it)
    assert [each for each in commands[0] if each.startswith("base_model=")] == [f"base_model={sft.chosen(it).folder}"]


def test_the_gate_waits_for_somebody_to_look(it):
    stages.prep(it)
    stages.inspect(it)
    strict = begun(it.home, "recipe=demo", "require_inspected=true")
    with pytest.raises(InputError, match="inspect mix=embedded --approve"):
        stages.inspect(strict)


def test_the_command_that_shows_the_rows_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr(stages.manifest, "read_manifest", lambda folder: {})
    it = begun(tmp_path / "a b", "recipe=demo", "require_inspected=true")
    with pytest.raises(InputError, match=f"--approve 'posttrain.data_dir={tmp_path}/a b/data/seed1'"):
        stages.inspect(it)


ENDLESS = ["python3", "-c", "import time; time.sleep(60)"]


def test_validations_on_a_plateau_end_the_run_once(it, sft):
    run = sft.run_of(it)
    run.path.mkdir(parents=True)
    values = [2.0, 1.0, 1.0, 1.1]
    lines = [{"step": step, "data": {"val/loss": value}} for step, value in enumerate(values, 1)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert follow_launch(run, ENDLESS, Plateau(), sft.plateau_file(it)) != 0
    assert json.loads(sft.plateau_file(it).read_text()) == {"metric": "val/loss", "values": values}
    assert sft.is_trained(it)


def test_a_last_stage_with_a_plateau_ends_with_its_best_checkpoint(tmp_path, questions, monkeypatch):
    file = tmp_path / "own.yaml"
    file.write_text("stages: [{recipe: demo_sft, plateau: {}}]\nevals: [test]\nseed: 1\n")
    it = begun(tmp_path, f"recipe={file}")
    assert [name for name, _ in stages.all_steps(it)] == ["prep", "inspect", "sft", "choose-sft", "evaluate", "export"]
    (sft,) = it.spec.stages
    trained(sft.run_of(it), INTERRUPTED, steps=(10, 20))
    answers(monkeypatch, {10: 0.5, 20: 0.2})
    sft.choose(it)
    called = []
    monkeypatch.setattr(stages, "call_verb", lambda verb, arguments: called.append((verb, arguments)))
    assert stages.final_model(it) == sft.chosen(it).folder
    stages.export(it)
    assert called == [("export", [f"run={sft.run_of(it).path}", "step=10", f"posttrain.out={tmp_path}/export"])]


def test_a_stage_may_be_named_like_a_former_file(tmp_path):
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out/step-step-10.json").write_text("{}")
    entry.adopt_former_names(tmp_path, "step")
    assert [file.name for file in (tmp_path / "held_out").iterdir()] == ["step-step-10.json"]


def test_a_pipeline_that_began_before_stages_were_a_list_resumes(tmp_path, monkeypatch):
    former = [{"name": name, "state": state, "seconds": 1.5} for name, state in
              (("prep", "done"), ("inspect", "done"), ("sft", "done"), ("choose", "done"), ("rl", "interrupted"))]  # fmt: skip
    (tmp_path / "pipeline.json").write_text(json.dumps({"name": "demo", "id": "seed1", "stages": former}, indent=2))
    (tmp_path / "plateau.json").write_text("{}")
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out/step-10.json").write_text("{}")
    (tmp_path / "chosen.json").write_text(json.dumps({"folder": str(tmp_path), "step": 10, "held_out": {}}))
    for _ in range(2):
        entry.adopt_former_names(tmp_path, "sft")
    it = begun(tmp_path, "recipe=demo")
    sft, rl = it.spec.stages
    assert sft.is_trained(it) and sft.chosen(it) == (tmp_path, 10)
    assert [file.name for file in (tmp_path / "held_out").iterdir()] == ["sft-step-10.json"]
    commands = started(monkeypatch)
    trained(rl.run_of(it), INTERRUPTED)
    for name, work in stages.all_steps(it):
        if name in ("sft", "choose-sft", "rl"):
            with it.journal.stage(name):
                work()
    assert commands == [[f"run={tmp_path}/runs/demo_grpo/0"]]
    found = json.loads((tmp_path / "pipeline.json").read_text())["stages"]
    assert [stage["name"] for stage in found] == ["prep", "inspect", "sft", "choose-sft", "rl"]
    assert {stage["state"] for stage in found} == {"done"} and found[3]["seconds"] >= 1.5
