"""The activity is read off the names on the trainer's stack; the names are those of the installed VeRL."""

import importlib.util
import re
import threading
import time
from pathlib import Path

from posttrain_verl.verl import progress


def test_rollouts_are_counted_for_the_watch(tmp_path, monkeypatch):
    progress.write_rollout_count(3)  # no run asks for it
    file = tmp_path / "activity.json"
    monkeypatch.setenv(progress.ACTIVITY_FILE, str(file))
    assert progress.read_rollout_count(file) == 0
    progress.write_rollout_count(3)
    assert progress.read_rollout_count(file) == 3
    progress.mark_activity("generation")
    progress.delete_progress(file)
    assert not list(tmp_path.iterdir())


def test_no_activity_follows_the_last_one(tmp_path, monkeypatch):
    """The thread that looks at the trainer's stack may be about to write when the run ends."""
    file = tmp_path / "activity.json"
    monkeypatch.setenv(progress.ACTIVITY_FILE, str(file))
    monkeypatch.setattr(progress, "_last", None)
    progress.mark_last_activity("ending")
    progress.mark_activity("update")
    assert progress.read_activity(file)[0] == "ending"


def test_a_thread_is_followed(tmp_path, monkeypatch):
    file = tmp_path / "activity.json"
    monkeypatch.setenv(progress.ACTIVITY_FILE, str(file))
    done = threading.Event()

    def _update_actor():
        progress.follow_this_thread()
        done.wait(10)

    thread = threading.Thread(target=_update_actor)
    thread.start()
    until = time.monotonic() + 5
    while progress.read_activity(file)[0] != "update" and time.monotonic() < until:
        time.sleep(0.05)
    done.set()
    thread.join()
    assert progress.read_activity(file)[0] == "update"


def test_the_outermost_known_function_counts():
    assert progress.activity_from_stack(["run", "fit", "_validate", "sample"]) == "validation"
    assert progress.activity_from_stack(["run", "init", "_setup"]) == progress.OUTER_ACTIVITIES["_setup"]
    assert progress.activity_from_stack(["run", "init", "_setup", "_load_checkpoint"]) == "loading a checkpoint"
    assert progress.activity_from_stack(["run", "fit"]) == "training"
    assert progress.activity_from_stack(["run", "main"]) == ""


def test_without_a_file_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.delenv(progress.ACTIVITY_FILE, raising=False)
    progress.mark_activity("update")
    assert progress.read_activity(tmp_path / "missing") == ("", 0.0)


def test_verl_has_these_functions():
    verl = Path(importlib.util.find_spec("verl").origin).parent
    files = ["trainer/ppo/v1/trainer_base.py", "trainer/ppo/v1/replay_buffer.py", "trainer/sft_trainer_ray.py",
             "trainer/main_ppo.py", "utils/checkpoint/checkpoint_handler.py", "workers/engine_workers.py",
             "checkpoint_engine/base.py"]  # fmt: skip
    text = "".join((verl / file).read_text() for file in files)
    ours = {"wait_for_devices", "start_ray"}
    missing = {
        name for name in progress.ACTIVITIES | progress.OUTER_ACTIVITIES if not re.search(rf"def {name}\b", text)
    } - ours
    assert not missing
