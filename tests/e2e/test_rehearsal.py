"""`check --rehearse` on real VeRL: what it finds sound, what it finds broken, and (nightly) the rest of the library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain_verl import paths

pytestmark = pytest.mark.timeout(900)
LIBRARY = sorted(path.stem for path in paths.recipes_dir().glob("*.yaml") if not path.stem.startswith("demo_"))
ARCHITECTURES = ["llama3_1_8b_instruct", "qwen3_0_6b", "qwen3_30b_a3b", "deepseek_r1_distill_llama_8b"]


@pytest.fixture
def rehearse(shared, tmp_path):
    def run(recipe: str, *words: str) -> tuple[int, str, dict]:
        command = [sys.executable, "-m", "posttrain_verl.check", f"recipe={recipe}", "hardware=8xh100", "--rehearse",
                   f"posttrain.runs_dir={tmp_path}", f"posttrain.data_dir={shared['POSTTRAIN_TEST_DATA']}", *words]  # fmt: skip
        done = subprocess.run(command, env={**os.environ, **shared}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False, timeout=800)  # fmt: skip
        written = list(tmp_path.glob("rehearsals/*/rehearsal.json"))
        return done.returncode, done.stdout, json.loads(written[0].read_text()) if written else {}

    return run


@pytest.mark.e2e
@pytest.mark.parametrize("recipe", ["math_dapo", pytest.param("math_sft_lora", marks=pytest.mark.nightly)])
def test_a_sound_recipe_passes(rehearse, recipe):
    code, printed, written = rehearse(recipe)
    assert code == 0, printed
    assert f"recipe '{recipe}' passed its rehearsal" in printed
    assert all(finding["good"] for finding in written["findings"]) and len(written["findings"]) >= 5
    assert "CUDA kernels" in printed.partition("not rehearsed:")[2]
    assert written["seconds"].keys() >= {"tiny model", "first run", "resumed run"}


@pytest.mark.e2e
def test_a_reward_that_raises_fails_the_rehearsal(rehearse):
    reward = Path(__file__).with_name("raising_reward.py")
    code, printed, written = rehearse(
        "code_grpo", f"reward.custom_reward_function.path={reward}", "posttrain.skip=[rewards]"
    )
    assert code == 1
    assert "FAILED two steps: ValueError: this grader cannot grade" in printed
    assert "Traceback" not in printed
    assert not written["good"]


def test_a_recipe_that_is_wrong_starts_nothing(tmp_path):
    words = ["recipe=math_grpo", "hardware=8xh100", "data.train_batch_size=100", f"posttrain.runs_dir={tmp_path}/runs"]
    command = [sys.executable, "-m", "posttrain_verl.check", *words, "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ppo_mini_batch_size=256 prompts is more than data.train_batch_size=100" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("recipe", LIBRARY)
def test_the_library(rehearse, recipe):
    code, printed, _ = rehearse(recipe)
    assert code == 0, printed


@pytest.mark.nightly
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_architectures(rehearse, model):
    code, printed, _ = rehearse("math_grpo", f"base_model={model}")
    assert code == 0, printed
