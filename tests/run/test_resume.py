"""Resuming a run whose driver is one of the test's own: metrics without gap or double line, retries, what cannot be resumed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from driven import conduct
from omegaconf import OmegaConf

from posttrain_verl import launch
from posttrain_verl import resume as resume_verb
from posttrain_verl.compose import compose
from posttrain_verl.run import prepare, resume, supervise
from posttrain_verl.run.folder import DONE, FAILED, RunFolder, Status
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Launch, Resume

# Trains to step 6 with a checkpoint at every second step, as VeRL does; `FIRST` dies after step 5 the first time.
TRAINS = """
import re, shutil
start = re.search(r"resume_from_path: .*global_step_(\\d+)", config)
start = int(start.group(1)) if start else 0
for step in range(start + 1, 7):
    log(step, **{"train/loss": 1.0 / step, "attempt": os.environ["VERL_FILE_LOGGER_PATH"]})
    if step % 2 == 0 and not os.path.exists(f"{sys.argv[-1]}/checkpoints/global_step_{step}"):
        shutil.copytree(sys.argv[-1] + "/whole/global_step_1", f"{sys.argv[-1]}/checkpoints/global_step_{step}")
    if step == 5 and start == 0:
        FAULT
"""
KILLED = TRAINS.replace("FAULT", "os.kill(os.getpid(), 9)")
WRONG = TRAINS.replace("FAULT", "raise ValueError('no such layer')")

LAUNCH = [sys.executable, "-m", "posttrain_verl.launch"]


@pytest.fixture
def training(prepared, sft):
    def make(program, **watch):
        folder = prepared(program, **watch)
        sft(folder.path / "whole", 1)
        return folder

    return make


def test_it_goes_on_by_itself_after_what_a_restart_heals(training, steps):
    folder = training(KILLED, retries=1)
    status, told = conduct(folder)
    assert (status.state, status.attempt, status.last_step) == (DONE, 2, 6)
    assert steps(folder) == [1, 2, 3, 4, 5, 6]
    assert any("resuming from" in line and "global_step_4" in line for line in told)
    assert not list(folder.path.glob(".metrics.*")) or steps(folder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("detached", "attempts"), [(True, 2), (False, 1)])
def test_a_run_that_nobody_looks_on_goes_on_by_itself_once(training, detached, attempts, told):
    folder = training(KILLED)
    status = supervise.supervise_run(folder, detached)
    assert (status.state, status.attempt) == (DONE if detached else FAILED, attempts)
    assert any("starting again; 0 more retries are left" in line for line in told) == detached


@pytest.mark.parametrize(("program", "retries"), [(KILLED, 0), (WRONG, 3)])
def test_it_does_not_without_retries_or_after_what_stays_wrong(training, program, retries):
    status, _ = conduct(training(program, retries=retries))
    assert (status.state, status.attempt) == (FAILED, 1)


def test_launch_run_goes_on_from_the_last_whole_checkpoint(training, steps):
    folder = training(WRONG)
    assert conduct(folder)[0].state == FAILED
    (folder.checkpoints / "global_step_4" / "data_0.pt").write_bytes(b"PK")  # cut short
    command = [sys.executable, "-m", "posttrain_verl.launch", f"run={folder.path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not from global_step_4: data_0.pt is missing or cut short" in done.stdout
    assert steps(folder) == [1, 2, 3, 4, 5, 6]
    assert folder.read_status().attempt == 2
    assert OmegaConf.load(folder.config).trainer.resume_from_path.endswith("global_step_2")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is done" in again.stderr


def test_lines_of_a_supervisor_that_was_killed_are_kept(training, steps, sft):
    folder = training(TRAINS.replace("FAULT", "pass"))
    folder.metrics.write_text('{"step": 1, "data": {}}\n{"step": 2, "data": {}}\n')
    folder.attempt_metrics(2).write_text('{"step": 2, "data": {}}\n{"step": 3, "data": {}}\n{"step": 4, "da')
    sft(folder.checkpoints, 3)
    folder.write_status(Status(FAILED, attempt=2))
    assert resume.prepare_attempt(folder).step == 3
    assert steps(folder) == [1, 2, 3]


def test_a_run_that_saved_its_last_step_is_complete(training):
    folder = training(KILLED)
    plan = folder.read_plan() | {"total_steps": 4}
    folder.write_plan(plan)
    folder.write_status(Status(FAILED, started=100.0, ended=130.0, last_step=4))
    folder.next_attempt(4)
    assert supervise.complete_run(folder, 3) is None
    status = supervise.complete_run(folder, 4)
    assert status.state == folder.read_status().state == DONE
    assert "in 30 s;" in supervise.closing_line(folder, status), "the time until somebody resumed it is not work"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["run=it", "recipe=math_sft"], "takes no recipe"),
        (["run=it", "posttrain.mix.name=other"], "takes no mix"),
        (["run=it", "detach"], "is not key=value"),
    ],
)
def test_what_a_run_is_cannot_be_changed(words, problem):
    with pytest.raises(InputError) as error:
        resume.read_request(words)
    assert problem in str(error.value)


def test_keys_of_verl_and_of_the_watch_can_be_given_anew(training):
    folder = training(KILLED)
    words = resume.read_request(["run=it", "trainer.total_training_steps=9", "posttrain.watch.silence.seconds=5"])
    folder.write_status(Status(FAILED))
    attempt = resume.plan_attempt(folder, words.verl(folder))
    prepare.check_attempt(folder, attempt.config, words.watch(folder))
    assert folder.read_plan()["total_steps"] == 9
    assert folder.read_plan()["watch"]["silence"]["seconds"] == 5
    resume.write_attempt(folder, attempt)
    for _ in range(2):  # and a retry continues with them
        assert OmegaConf.load(folder.config).trainer.total_training_steps == 9
        assert OmegaConf.load(folder.path / "config.1.yaml").trainer.total_training_steps is None
        resume.prepare_attempt(folder)
    for word in ("trainer.total_trainin_steps=9", "posttrain.watch.silence.secs=5"):
        wrong = resume.read_request(["run=it", word])
        with pytest.raises(InputError, match="cannot resume"):
            wrong.watch(folder)
            wrong.verl(folder)


def test_all_that_is_wrong_with_a_resume_is_said_at_once(training):
    folder = training(KILLED)
    folder.write_status(Status(DONE, last_step=4))
    folder.write_config(OmegaConf.merge(OmegaConf.load(folder.config), {"optim": {"lr": 1e-3}}))
    typed = ["run=it", "learning_rate=1e-4", "total_training_steps=20", "posttrain.watch.silense.seconds=3"]
    with pytest.raises(InputError) as caught:
        resume.require_resumable(folder, resume.read_request(typed))
    said = str(caught.value)
    assert "(4 problems)" in said and "is done: step 4 is reached" in said
    assert "learning_rate is not a key of the run's config.yaml\n     did you mean optim.lr?" in said
    assert (
        "total_training_steps is not a key of the run's config.yaml\n     did you mean trainer.total_training_steps?"
        in said
    )
    assert "did you mean posttrain.watch.silence.seconds?" in said


def test_another_number_of_ranks_cannot_read_the_shards(training, sft):
    folder = training(KILLED)
    config = OmegaConf.load(folder.config)
    config.trainer.update({"nnodes": 1, "n_gpus_per_node": 2})
    folder.write_config(config)
    folder.write_status(Status(FAILED))
    fewer = OmegaConf.create({"trainer": {"n_gpus_per_node": 1}})
    assert resume.plan_attempt(folder, fewer).choice.step == 0  # there is no checkpoint yet
    sft(folder.checkpoints, 3, world=2)
    folder.metrics.write_text('{"step": 3, "data": {}}\n')
    with pytest.raises(InputError, match="shards of 2 ranks, and the run would have 1"):
        resume.plan_attempt(folder, fewer)
    assert resume.prepare_attempt(folder).step == 3


@pytest.mark.parametrize(
    ("status", "healed"),
    [
        (Status(FAILED, rule="dead"), True),
        (Status(FAILED, rule="silence"), True),
        (Status(FAILED, rule="non_finite"), False),
        (Status(FAILED, why="ray.exceptions.ActorDiedError: The actor died unexpectedly"), True),
        (Status(FAILED, why="VeRL ended without a message: it was ended by SIGKILL"), True),
        (Status(FAILED, why="OSError: [Errno 98] Address already in use"), True),
        (Status(FAILED, why="ValueError: this grader cannot grade"), False),
        (Status(FAILED, why="VeRL ended without a message: it ended with exit status 1"), False),
    ],
)
def test_what_a_restart_heals(status, healed):
    assert supervise.is_healed_by_restart(status) is healed


def test_a_second_launch_does_not_get_a_folder_that_is_run(training):
    folder = training(KILLED)
    with supervise.hold_folder(RunFolder(folder.path)), pytest.raises(InputError, match="cannot resume"):
        supervise.supervise_run(folder)


@pytest.mark.parametrize("option", ["--dry-run", "--multirun", "--cfg=job", "--resolve"])
def test_a_resume_takes_no_option_of_a_new_launch(option):
    with pytest.raises(InputError, match="run= resumes a run"):
        read(Launch, ["run=nothing", option])


def test_runs_from_before_the_rooms_moved_find_our_modules(training):
    old = "path: pkg://posttrain_verl.run.sampler\nhook: posttrain_verl.verl.retention.PruneAfterSave\n"
    folder = training(KILLED)
    folder.config.write_text(folder.config.read_text() + old)
    resume.prepare_attempt(folder)
    config = OmegaConf.load(folder.config)
    assert (config.path, config.hook) == ("pkg://posttrain_verl.verl.replay_buffer",
                                          "posttrain_verl.verl.checkpoints.PruneAfterSave")  # fmt: skip


def test_a_run_cannot_end_before_the_step_that_is_reached(training, sft):
    folder = training(KILLED)
    sft(folder.checkpoints, 4)
    folder.metrics.write_text('{"step": 4, "data": {}}\n')
    folder.write_status(Status(DONE, started=100.0, ended=130.0, last_step=4))
    before = folder.read_plan(), folder.read_status(), folder.config.read_text()
    done = subprocess.run(
        [*LAUNCH, f"run={folder.path}", "trainer.total_training_steps=3"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "step 4 is reached already" in done.stderr
    assert before == (folder.read_plan(), folder.read_status(), folder.config.read_text())
    done = subprocess.run(
        [*LAUNCH, f"run={folder.path}", "trainer.total_training_steps=4"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "step 4 is reached, and the run ends there: nothing is left to train" in done.stdout
    assert (folder.read_status().ended, folder.read_status().attempt) == (130.0, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"optim": {"lr": 2e-5}}, "optim.lr=2e-05: VeRL takes it from the checkpoint, which was written with 1e-05"),
        ({"model": {"lora_rank": 8}}, "model.lora_rank=8: the checkpoint has another form"),
        ({"engine": {"fsdp_size": 1}}, None),  # of one rank, it is all of them
        ({"optim": {"lr_warmup_steps": 8}}, None),
    ],
)
def test_what_the_checkpoint_holds_cannot_be_changed(training, sft, changed, said):
    folder = training(KILLED)
    config = OmegaConf.load(folder.config)
    trainer = {"trainer": {"nnodes": 1, "n_gpus_per_node": 1}, "optim": {"lr": 1e-5}, "engine": {"fsdp_size": -1}}
    folder.write_config(OmegaConf.merge(config, trainer, {"model": {"lora_rank": 0}}))
    folder.write_status(Status(FAILED))
    assert resume.plan_attempt(folder, OmegaConf.create(changed)).choice.step == 0  # a new start may change it
    sft(folder.checkpoints, 3)
    folder.metrics.write_text('{"step": 3, "data": {}}\n')
    if said is None:
        assert resume.plan_attempt(folder, OmegaConf.create(changed)).choice.step == 3
        return
    with pytest.raises(InputError) as refused:
        resume.plan_attempt(folder, OmegaConf.create(changed))
    assert said in str(refused.value)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The run folder of a real launch that was never started."""
    place = tmp_path_factory.mktemp("launched")
    overrides = [f"posttrain.data_dir={place}/data", f"posttrain.runs_dir={place}/runs", "posttrain.run_id=it"]
    return prepare.set_up_run(compose(["recipe=demo_grpo", "hardware=cpu", "base_model=tiny", *overrides]))


def test_a_resume_is_checked_as_a_launch_is(launched):
    folder = launched
    words = ["run=it", "data.train_batch_size=33", "trainer.total_training_steps=20"]
    request = resume.read_request(words)
    before = folder.read_plan()
    with pytest.raises(InputError, match=r"data\.train_batch_size=33"):
        prepare.check_attempt(folder, resume.plan_attempt(folder, request.verl(folder)).config, request.watch(folder))
    assert folder.read_plan() == before


def test_a_healthy_resume_passes_and_builds_what_is_gone(launched):
    folder = launched
    (folder.path / "preflight.json").unlink()
    train = folder.read_settings().train_files
    Path(train if isinstance(train, str) else train[0]).unlink()
    request = resume.read_request(["run=it", "trainer.total_training_steps=20", "posttrain.watch.silence.seconds=9"])
    prepare.check_attempt(folder, resume.plan_attempt(folder, request.verl(folder)).config, request.watch(folder))
    assert Path(train if isinstance(train, str) else train[0]).is_file()
    report = json.loads((folder.path / "preflight.json").read_text())
    assert report["ok"] and {each["check"] for each in report["checks"] if each["verdict"] == "passed"} >= {
        "batch",
        "data",
        "disk",
    }
    assert (folder.read_plan()["total_steps"], folder.read_plan()["watch"]["silence"]["seconds"]) == (20, 9)


def test_a_resume_trains_on_the_data_of_the_launch(launched, tmp_path):
    """Under another name if it was moved, but not on other rows: the position in the data is that of the checkpoint."""
    (file,) = launched.read_settings().files("train_files")
    moved, other = tmp_path / "moved.parquet", tmp_path / "other.parquet"
    if not Path(file).is_file():  # the test above deletes it
        prepare.prepare_data(compose(launched.read_plan()["overrides"]))
    shutil.copy(file, moved)
    pq.write_table(pq.read_table(file).slice(1), other)
    attempt = resume.plan_attempt(launched, resume.read_request(["run=it", f"data.train_files={moved}"]).verl(launched))
    assert attempt.config.data.train_files == str(moved)
    with pytest.raises(InputError, match="launched with other rows"):
        resume.plan_attempt(launched, resume.read_request(["run=it", f"data.train_files={other}"]).verl(launched))


def test_files_of_ones_own_that_changed_are_refused_and_a_mix_that_was_built_again_is_not(launched, tmp_path):
    """The bytes of a mix that is built again follow from the version of pyarrow, too."""
    (file,) = launched.read_settings().files("train_files")
    plan, config = launched.read_plan(), launched.config.read_text()
    launched.write_plan(plan | {"train_sha256": ["of another build"]})
    resume.plan_attempt(launched)
    own = tmp_path / "own.parquet"
    shutil.copy(file, own)
    launched.config.write_text(config.replace(file, str(own)))
    with pytest.raises(InputError, match="put those back"):
        resume.plan_attempt(launched)
    launched.write_plan(plan)
    launched.config.write_text(config)


def test_what_a_resume_changed_is_written_down(launched):
    for word in ("trainer.total_training_steps=20", "trainer.save_freq=7"):
        request = resume.read_request(["run=it", word])
        attempt = resume.plan_attempt(launched, request.verl(launched))
        prepare.check_attempt(launched, attempt.config, request.watch(launched), request.own)
    assert launched.read_plan()["resumed_with"][-2:] == ["trainer.total_training_steps=20", "trainer.save_freq=7"]


def test_a_run_of_accelerators_needs_some(launched, monkeypatch):
    plan = launched.read_plan()
    plan["choices"]["hardware"] = "auto"
    with pytest.raises(InputError, match="the run was launched on cpu, and here"):
        prepare.compose_run(launched, OmegaConf.load(launched.config), plan)


def test_the_verb_resume_is_launch_with_a_run(monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "resume_run", lambda arguments: asked.append(arguments) or 0)
    assert command_line.main(Resume, resume_verb.run, ["run=g2", "detach=true", "posttrain.runs_dir=there"]) == 0
    assert asked == [["run=g2", "posttrain.runs_dir=there", "detach=true"]]


def test_a_run_that_was_moved_or_copied_resumes_from_its_own_checkpoints(training, sft):
    folder = training(KILLED)
    sft(folder.checkpoints, 4)
    folder.metrics.write_text('{"step": 4, "data": {}}\n')
    folder.write_status(Status(FAILED))
    copy = RunFolder(folder.path.with_name("copy"))
    shutil.copytree(folder.path, copy.path)
    attempt = resume.plan_attempt(copy)
    assert attempt.choice.path == copy.checkpoints / "global_step_4"
    assert attempt.config.trainer.default_local_dir == str(copy.checkpoints)


def test_overrides_that_leave_no_checkpoint_are_refused_and_change_nothing(training, sft, tmp_path):
    folder = training(KILLED)
    sft(folder.checkpoints, 4)
    folder.metrics.write_text('{"step": 4, "data": {}}\n')
    folder.write_status(Status(FAILED))
    elsewhere = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path / "elsewhere")}})
    with pytest.raises(InputError, match="cannot be resumed, and the run would start again"):
        resume.plan_attempt(folder, elsewhere)
    with pytest.raises(InputError, match="was written with AdamW"):
        config = OmegaConf.merge(OmegaConf.load(folder.config), {"optim": {"optimizer": "AdamW"}})
        folder.write_config(config)
        resume.plan_attempt(folder, OmegaConf.create({"optim": {"optimizer": "SGD"}}))
    assert folder.metrics.read_text()


def test_a_damaged_plan_is_named(training, capsys):
    folder = training(KILLED)
    folder.plan.write_text("{bad")
    with pytest.raises(InputError, match=r"plan\.json cannot be read"):
        resume.plan_attempt(folder)
