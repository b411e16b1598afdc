"""Which checkpoints of a run stay, across its attempts."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl.verl import checkpoints
from posttrain_verl.verl.checkpoints import PruneAfterSave, Retention
from posttrain_verl.verl.stage import stage_named

SFT, RL = stage_named("sft"), stage_named("rl")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The checkpoints of the run that this process is of."""
    monkeypatch.setenv(checkpoints.METRICS_VARIABLE, str(tmp_path / ".metrics.1.jsonl"))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def config(home, resumed=None, **trainer):
    given = {"default_local_dir": str(home), "resume_mode": "resume_path" if resumed else "auto",
             "resume_from_path": str(home / f"global_step_{resumed}") if resumed else None}  # fmt: skip
    return OmegaConf.create({"trainer": given | trainer, "critic": {"enable": True}})


def saved(home, step, *parts):
    for part in parts or ("",):
        (home / f"global_step_{step}" / part).mkdir(parents=True)
    (home / f"global_step_{step}" / "data.pt").write_bytes(b"")


def there(home):
    return sorted(str(path.relative_to(home)) for path in home.glob("global_step_*"))


def test_those_before_a_resume_count(home):
    saved(home, 20)
    saved(home, 40)
    kept = Retention(config(home, resumed=40, max_ckpt_to_keep=2), SFT)
    for step, left in ((60, ["global_step_40", "global_step_60"]), (80, ["global_step_60", "global_step_80"])):
        saved(home, step)
        kept.after_save(step)
        assert there(home) == left


def test_what_a_killed_attempt_left_beyond_the_resumed_step_goes_once_a_newer_one_is_whole(home):
    for step in (20, 40, 60):
        saved(home, step)
    kept = Retention(config(home, resumed=20, max_ckpt_to_keep=2), SFT)
    assert there(home) == ["global_step_20", "global_step_40", "global_step_60"], "nothing goes before a save"
    saved(home, 30)
    assert sorted(path.name for path in kept.after_save(30)) == ["global_step_40", "global_step_60"]
    assert there(home) == ["global_step_20", "global_step_30"]


def test_an_attempt_that_started_again_keeps_its_own(home):
    """And what was there stays until there are as many: a kill before the first is logged would leave nothing."""
    saved(home, 20)
    kept = Retention(config(home, max_ckpt_to_keep=2), SFT)
    for step, left in ((15, ["global_step_15", "global_step_20"]), (30, ["global_step_15", "global_step_30"])):
        saved(home, step)
        kept.after_save(step)
        assert there(home) == left


def test_all_stay_where_no_number_is_set(home):
    for step in (20, 40, 60):
        saved(home, step)
    assert Retention(config(home, max_ckpt_to_keep=None), SFT).after_save(60) == []
    assert len(there(home)) == 3


def test_actor_and_critic_have_numbers_of_their_own(home):
    for step in (10, 20, 30):
        saved(home, step, "actor", "critic")
    kept = Retention(config(home, resumed=20, max_actor_ckpt_to_keep=2, max_critic_ckpt_to_keep=1), RL)
    kept.after_save(30)
    models = sorted(str(path.relative_to(home)) for path in home.glob("*/*") if path.is_dir())
    assert models == ["global_step_20/actor", "global_step_30/actor", "global_step_30/critic"]


def test_what_verl_leaves_of_a_pruned_checkpoint_goes(home, monkeypatch):
    monkeypatch.setenv(checkpoints.STAGE_VARIABLE, "rl")
    saved(home, 30, "actor")
    (home / "global_step_20").mkdir()
    (home / "global_step_20" / "data.pt").write_bytes(b"")  # VeRL deletes actor/ alone
    callback = PruneAfterSave(config=config(home, max_actor_ckpt_to_keep=2))
    callback.on_save(trainer=None, global_step=30, checkpoint_dir=str(home / "global_step_30"), async_save=False, new=1)
    assert there(home) == ["global_step_30"]


def test_the_callback_asks_the_stage_of_the_run(home, monkeypatch):
    """A stage on the same trunk of VeRL may keep its models elsewhere, and other numbers of them."""
    monkeypatch.setenv(checkpoints.STAGE_VARIABLE, "sft")
    for step in (10, 20):
        saved(home, step)
    PruneAfterSave(config=config(home, resumed=10, max_ckpt_to_keep=1)).on_save(global_step=20)
    assert there(home) == ["global_step_20"]


def test_the_callback_of_no_run_deletes_nothing(home, monkeypatch):
    monkeypatch.delenv(checkpoints.STAGE_VARIABLE, raising=False)
    saved(home, 10)
    PruneAfterSave(config=config(home, max_actor_ckpt_to_keep=1)).on_save(global_step=20)
    assert there(home) == ["global_step_10"]


def test_the_folder_of_another_run_is_left_alone(home, tmp_path):
    folder = tmp_path / "other" / "checkpoints"
    for step in (20, 40, 60):
        saved(folder, step)
    (folder.parent / "config.yaml").write_text("")
    assert Retention(config(folder, max_ckpt_to_keep=1), SFT).after_save(60) == []
    assert len(there(folder)) == 3


def test_without_a_run_nothing_is_deleted(home, monkeypatch):
    monkeypatch.delenv(checkpoints.METRICS_VARIABLE)
    for step in (20, 40):
        saved(home, step)
    assert Retention(config(home, max_ckpt_to_keep=1), SFT).after_save(40) == []


def test_a_checkpoint_of_another_run_is_no_earlier_one_of_this(home, tmp_path):
    given = config(home, max_ckpt_to_keep=1)
    given.trainer.resume_mode, given.trainer.resume_from_path = (
        "resume_path",
        str(tmp_path / "other" / "global_step_90"),
    )
    saved(home, 10)
    saved(home, 95)
    Retention(given, SFT).after_save(95)
    assert there(home) == ["global_step_95"]


def test_a_disk_that_does_not_let_go_ends_no_run(home, monkeypatch, capsys):
    def fails(self, step):
        raise OSError("stale file handle")

    class Handler:
        def save_checkpoint(self, step):
            saved(home, step)

    handler = Handler()
    checkpoints.prune_after_saves(handler, config(home, max_ckpt_to_keep=1), SFT)
    monkeypatch.setattr(Retention, "after_save", fails)
    handler.save_checkpoint(step=5)
    assert there(home) == ["global_step_5"]
    assert "old checkpoints stay: stale file handle" in capsys.readouterr().out
