"""vLLM's own verdict without a GPU: the environment for GPUs, with a driver that finds no device and a platform of eight.

It takes every argument of every recipe's rollout, and builds every model; everything imports; SFT trains there on the CPU.
What a device must do is not asked: kernels, memory, NCCL.
"""

import json
import subprocess

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.base_models import shape

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3 * 3600)]

RECIPES = [file for file in sorted(paths.recipes_dir().glob("*.yaml")) if "- /rl\n" in file.read_text()]
FILES = sorted((paths.conf_dir() / "base_model").glob("*.yaml"))
CONFIGS = {file.stem: config for file in FILES if (config := OmegaConf.load(file).config)}
# gguf is of the extra `cpu`, for the one embedded model that comes as a GGUF; flash-attn is taken where it is found.
NOT_INSTALLED = {"gguf:GGUFReader", "gguf:TokenType", "posttrain_verl.base_models.smollm2",
                 "flash_attn:flash_attn_varlen_func"}  # fmt: skip
VOCABULARY = 64  # vLLM rounds the vocabulary up to a multiple
SFT = ["recipe=demo_sft", "base_model=tiny", "hardware=cpu", "trainer.total_training_steps=2", "trainer.save_freq=2",
       "data.train_batch_size=8", "data.micro_batch_size_per_gpu=8", "posttrain.run_id=two"]  # fmt: skip

BROKEN = """
# Run:    python -m posttrain_verl.launch recipe=broken hardware=8xh100
defaults: [/rl, override /base_model: qwen2_7b_instruct, _self_]
data: {train_batch_size: 8, max_prompt_length: 512, max_response_length: 512}
actor_rollout_ref: {actor: {ppo_mini_batch_size: 8}, rollout: {engine_kwargs: {vllm: {no_such_argument: 1}}}}
"""


@pytest.fixture(scope="module")
def servers(answer, tmp_path_factory) -> dict[str, dict]:
    return answer("launch_servers.py", tmp_path_factory.mktemp("models"), *RECIPES)


@pytest.fixture(scope="module")
def models(answer, tmp_path_factory) -> dict[str, dict]:
    return answer("build_models.py", tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("recipe", [file.stem for file in RECIPES])
def test_vllm_takes_every_argument_of_a_recipe(servers, recipe):
    assert servers[recipe]["accepted"], servers[recipe]["error"]
    assert not servers[recipe]["dual_chunk"]


def test_an_argument_that_vllm_does_not_know_is_refused(answer, tmp_path):
    recipe = tmp_path / "recipes" / "broken.yaml"
    recipe.parent.mkdir()
    recipe.write_text(BROKEN)
    found = answer("launch_servers.py", tmp_path, recipe, cwd=tmp_path)
    assert found["broken"]["error"].endswith("unrecognized arguments: --no-such-argument 1")


@pytest.mark.parametrize("name", CONFIGS)
def test_vllm_builds_a_model_of_the_size_that_is_planned_for(models, name):
    assert models[name]["built"], models[name]["error"]
    assert models[name]["class"] == CONFIGS[name].architectures[0]
    padded = -(-CONFIGS[name].vocab_size // VOCABULARY) * VOCABULARY
    assert models[name]["parameters"] == shape.shape_of_config({**CONFIGS[name], "vocab_size": padded}).parameters


def test_without_our_plugin_vllm_does_not_build_qwen_1m(answer, tmp_path):
    """The day that this fails, posttrain_verl.verl.vllm_models can leave the key where it is."""
    found = answer("build_models.py", tmp_path, "qwen2_5_7b_instruct_1m", VLLM_PLUGINS="posttrain_cpu")
    assert not found["qwen2_5_7b_instruct_1m"]["built"]


def test_everything_imports(answer):
    errors = {name: error for name, error in answer("import_everything.py", paths.conf_dir().parent).items() if error}
    assert errors.keys() == NOT_INSTALLED, errors


def test_the_packages_fit_each_other(gpu_python):
    checked = subprocess.run([gpu_python, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_two_steps_of_sft_on_the_cpu(gpu_python, variables, tmp_path):
    folders = [f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data"]
    command = [gpu_python, "-m", "posttrain_verl.launch", *SFT, *folders]
    ended = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    lines = (tmp_path / "runs/demo_sft/two/metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, lines) if "train/loss" in line["data"]] == [1, 2]


def test_packed_rows_under_its_torch(gpu_python, variables):
    """The kernel's arguments have changed between the versions of PyTorch."""
    command = [gpu_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", paths.conf_dir().parent / "tests/verl"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout[-3000:]
