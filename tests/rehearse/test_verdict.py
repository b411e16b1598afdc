"""Each finding of a rehearsal can be bad, and says what was seen."""

import json

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.rehearse import small_run
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.output import metrics_by_step

SOUND = {"actor/grad_norm": 0.5, "training/rollout_actor_probs_pearson_corr": 0.9999, "reward/acc/mean": 0.0,
         "reward/verifier_error/mean": 0.0, "timing_s/gen": 1.25}  # fmt: skip
BYTE_LEVEL = {"tokenizer": "byte-level"}


@pytest.fixture(scope="module")
def planned():
    return compose(["recipe=math_grpo", "hardware=8xh100"])


def folder_of(path, *steps):
    folder = RunFolder(path)
    records = [json.dumps({"step": number, "data": data}) for number, data in enumerate(steps, 1)]
    folder.metrics.write_text("\n".join(records) + "\n")
    (folder.checkpoints / "global_step_2").mkdir(parents=True)
    (folder.checkpoints / "global_step_2" / "weights").write_text("w")
    return folder


def bad(findings):
    return [finding.name for finding in findings if not finding.good]


def test_a_sound_run(planned, tmp_path):
    folder = folder_of(tmp_path, SOUND, SOUND | {"val-core/gsm8k/acc/mean@1": 0.0})
    assert bad(small_run.first_findings(planned, folder, done=True)) == []
    assert small_run.stage_seconds(metrics_by_step(folder.metrics)) == {"step 2 rollouts": 1.2}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"actor/grad_norm": 0.0}, "actor: finite"),
        ({"actor/grad_norm": float("nan")}, "actor: finite"),
        ({"training/rollout_actor_probs_pearson_corr": 0.5}, "vLLM samples"),
        ({"reward/verifier_error/mean": 0.25}, "the recipe's reward"),
    ],
)
def test_a_run_that_is_not(planned, tmp_path, change, name):
    step = SOUND | {"val-core/gsm8k/acc/mean@1": 0.0} | change
    found = bad(small_run.first_findings(planned, folder_of(tmp_path, step, step), done=True))
    assert len(found) == 1 and found[0].startswith(name)


def test_no_validation_no_checkpoint_and_a_missing_step(planned, tmp_path):
    folder = folder_of(tmp_path, SOUND)
    (folder.checkpoints / "global_step_2" / "weights").unlink()
    assert bad(small_run.first_findings(planned, folder, done=True)) == ["two steps", "validation", "checkpoint"]


def test_a_run_that_failed_says_why(planned, tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("failed", why="ValueError: no"))
    assert [str(f) for f in small_run.first_findings(planned, folder, done=False)] == [
        "  FAILED two steps: ValueError: no"
    ]
    assert not small_run.resumed_finding(folder, done=False).good


def test_a_resume_that_starts_over(tmp_path):
    assert not small_run.resumed_finding(folder_of(tmp_path, SOUND, SOUND, SOUND), done=True).good


def test_what_is_not_rehearsed(planned):
    missing = "\n".join(small_run.not_rehearsed(planned, BYTE_LEVEL, own_data=False))
    for word in ("attention", "NCCL", "CUDA graphs", "sleep mode", "tensor parallelism", "offload of the reference",
                 "real weights", "real lengths", "tokenizer and template", "prep mix=math"):  # fmt: skip
        assert word in missing
    assert "nodes" not in missing
    several = compose(["recipe=math_dapo", "hardware=8xh100", "trainer.nnodes=8"])
    missing = "\n".join(small_run.not_rehearsed(several, {"tokenizer": "its own"}, own_data=True))
    assert "the network between 8 nodes" in missing and "Ulysses" in missing and "tokenizer" not in missing
