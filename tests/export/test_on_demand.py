"""Where the weights of a checkpoint come from: VeRL's folder, an export, or one that is made now."""

import json
import os
import shutil
import subprocess
import time
from collections import namedtuple

import pytest
import torch
from safetensors.torch import save

from posttrain_verl.export import proof, weights
from posttrain_verl.export.weights import ensure_weights
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.terminal.problem import InputError, WorkFailed
from posttrain_verl.verl.checkpoints import fingerprint_shards


@pytest.fixture
def run(tmp_path):
    """A run with shards of the steps 10 and 20."""
    found = RunFolder.create(tmp_path / "run")
    found.write_plan({"stage": "rl"})
    for step in (10, 20):
        shards = found.checkpoints / f"global_step_{step}" / "actor"
        (shards / "huggingface").mkdir(parents=True)
        (shards / "huggingface" / "config.json").write_text("{}")
        (shards / "fsdp_config.json").write_text('{"world_size": 1}')
        torch.save({"weight": torch.ones(100)}, shards / "model_world_size_1_rank_0.pt")
    return found


def model(folder, agrees=True, shards=None):
    """A model, exported from `shards` where they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(save({"weight": torch.ones(100)}))
    (folder / "proof.json").write_text(json.dumps([{"name": proof.AGREES, "passed": agrees, "saw": "so far off"}]))
    if shards:
        (folder / weights.EXPORTED_SHARDS).write_text(fingerprint_shards(shards))


@pytest.fixture
def exports(monkeypatch):
    """The words of each export, which writes a model, or prints a problem where `agrees` is None."""
    asked = []

    def made(agrees=True):
        def execute(command, **_):
            asked.append(command[3:])
            out = next(word.partition("=")[2] for word in command if word.startswith("posttrain.out="))
            if agrees is not None:
                words = dict(word.split("=", 1) for word in command if "=" in word)
                shards = weights.Path(words["run"], "checkpoints", f"global_step_{words['step']}", "actor")
                model(weights.Path(out), agrees, shards)
            return subprocess.CompletedProcess(
                command, 0, "", "nothing to export (1 problem):\n  1. a shard is missing"
            )

        monkeypatch.setattr(weights.subprocess, "run", execute)
        return asked

    return made


def test_shards_are_exported_once_and_it_is_said(run, exports, told):
    asked = exports()
    folder = ensure_weights(run)
    assert folder == run.path / "weights-20" == ensure_weights(run)
    assert asked == [[f"run={run.path}", "step=20", "vllm=false", f"posttrain.out={folder}"]]
    assert len(told) == 1 and "holds shards only" in told[0] and "GB" in told[0]
    assert ensure_weights(run, 10) == run.path / "weights-10"


def test_verls_own_folder_is_taken_where_it_was_saved(run, exports):
    asked = exports()
    model(run.checkpoints / "global_step_20/actor/huggingface")
    assert ensure_weights(run) == run.checkpoints / "global_step_20/actor/huggingface"
    for shard in run.checkpoints.glob("*/actor/model_world_size*"):
        shard.unlink()
    assert ensure_weights(run) == run.checkpoints / "global_step_20/actor/huggingface", "the shards are not needed"
    assert asked == []


def test_of_a_lora_run_verls_folder_is_no_model(run, exports):
    model(run.checkpoints / "global_step_20/actor/huggingface")
    (run.checkpoints / "global_step_20/actor/lora_train_meta.json").write_text("{}")
    exports()
    assert ensure_weights(run) == run.path / "weights-20"


def test_an_export_is_taken_and_an_adapter_is_not(run, exports):
    exports()
    model(run.path / "export-20", shards=run.checkpoints / "global_step_20/actor")
    assert ensure_weights(run) == run.path / "export-20"
    (run.path / "export-20" / "config.json").unlink()
    assert ensure_weights(run) == run.path / "weights-20"


def test_a_step_that_was_trained_again_is_exported_again(run, exports):
    asked, shards = exports(), run.checkpoints / "global_step_20/actor"
    model(run.path / "export-20", shards=shards)
    torch.save({"weight": 2 * torch.ones(100)}, shards / "model_world_size_1_rank_0.pt")
    os.utime(shards / "model_world_size_1_rank_0.pt", (1, 1))
    assert ensure_weights(run) == run.path / "weights-20" == ensure_weights(run)
    assert len(asked) == 1


def test_the_exports_of_a_copied_run_are_its_own(run, exports, tmp_path):
    """`cp -r` gives every file the time of the copy."""
    asked = exports()
    model(run.path / "export-20", shards=run.checkpoints / "global_step_20/actor")
    shutil.copytree(run.path, tmp_path / "copy", copy_function=shutil.copyfile)
    later = time.time() + 60
    os.utime(tmp_path / "copy/checkpoints/global_step_20/actor/model_world_size_1_rank_0.pt", (later, later))
    assert ensure_weights(RunFolder(tmp_path / "copy")) == tmp_path / "copy/export-20"
    assert asked == []


def test_what_a_killed_run_was_writing_is_passed_over(run, exports):
    exports()
    (run.checkpoints / "global_step_20/actor/model_world_size_1_rank_0.pt").write_bytes(b"cut")
    assert ensure_weights(run) == run.path / "weights-10"


@pytest.mark.parametrize("left", ["gone", "cut"])
def test_an_export_whose_shards_are_gone_is_what_is_left_of_the_step(run, exports, told, left):
    """It is the newest step, too. Before, a cut shard ended in a traceback, and a run without shards had no checkpoint."""
    asked = exports()
    out = ensure_weights(run)
    for shard in run.checkpoints.glob("*/actor/model_world_size*"):
        shard.unlink() if left == "gone" else os.truncate(shard, 100)
    assert ensure_weights(run) == out == weights.present_folder(run) and weights.result_step(run) == 20
    assert len(asked) == 1 and told[-1] == f"{out} is what is left of step 20: its shards are gone or cut short"
    shutil.rmtree(run.checkpoints)
    assert ensure_weights(run) == out


def test_weights_that_are_cut_short_are_made_again_and_never_handed_on(run, exports):
    asked = exports()
    out = ensure_weights(run)
    for _ in range(2):
        os.truncate(out / "model.safetensors", 100)
        assert ensure_weights(run) == out and (out / "model.safetensors").stat().st_size > 400
    assert len(asked) == 3
    os.truncate(out / "model.safetensors", 100)
    for shard in run.checkpoints.glob("*/actor/model_world_size*"):
        shard.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors cut short.*has no shards"):
        ensure_weights(run, 20)
    assert (out / "model.safetensors").is_file(), "what cannot be made again stays"
    with pytest.raises(InputError, match=r"shards of \[10, 20\] are missing or cut short"):
        ensure_weights(run)


def test_checkpoints_on_a_cluster_are_told_from_none(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    run.write_status(Status("done", job={"address": "http://h:1", "id": "x", "folder": "~/runs/math_grpo/first"}))
    with pytest.raises(InputError, match=r"stay there, in ~/runs/math_grpo/first/checkpoints"):
        ensure_weights(run)


def test_a_model_that_is_not_the_checkpoint_is_never_handed_on(run, exports):
    exports(agrees=False)
    for _ in range(2):
        with pytest.raises(WorkFailed, match="not the model of its checkpoint: so far off"):
            ensure_weights(run)


def test_an_export_that_fails_says_why(run, exports):
    exports(agrees=None)
    with pytest.raises(InputError, match=r"a shard is missing(.|\n)*posttrain_verl.export run="):
        ensure_weights(run)


def test_a_disk_without_room_is_told_before(run, exports, monkeypatch):
    asked = exports()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, 100))
    with pytest.raises(InputError, match=r"1e-07 GB free for(.|\n)*posttrain.out=FOLDER"):
        ensure_weights(run)
    assert asked == []


def test_a_run_without_checkpoints(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        ensure_weights(RunFolder(tmp_path))


def test_the_size_is_that_of_the_model_not_of_its_shards(run):
    """Of a LoRA run the shards may be the adapter alone, and replicas write them several times."""
    shards = run.checkpoints / "global_step_20/actor"
    assert 0 < weights.export_size(shards) < 2000, "half of the shards, where the config says nothing"
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 1000,
    }
    (shards / "huggingface" / "config.json").write_text(json.dumps(sizes))
    parameters = 2 * 8 * 1000 + 8 + 4 * 8 * 8 + 3 * 8 * 16 + 2 * 8  # embedding and output, norms, attention, MLP
    assert weights.export_size(shards) == 2 * parameters
