"""What a value of `base_model=` means: an option, a folder, a model of the hub, or what a run trained."""

import json

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants as hub_constants
from omegaconf import OmegaConf

from posttrain_verl import recipe_verbs
from posttrain_verl.base_models import naming
from posttrain_verl.compose import compose
from posttrain_verl.export import weights
from posttrain_verl.preflight import model
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal.problem import InputError

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 4096,
         "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}  # fmt: skip

NO_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # a whole file of safetensors


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "option", "path"),
    [
        ("tiny", "tiny", None),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5_7b_instruct", None),
        ("Org/Some-Model.v2", "folder", "Org/Some-Model.v2"),
        ("models/mine", "folder", "{here}/models/mine"),
        ("./models/none", "folder", "{here}/models/none"),
        ("/no/such/folder", "folder", "/no/such/folder"),
        ("tinny", "tinny", None),
        ("mine.yaml", "mine.yaml", None),
    ],
)
def test_what_a_name_means(here, value, option, path):
    assert naming.read_name(value) == naming.ModelName(option, path and path.format(here=here))


def test_the_config_of_a_hub_model_is_fetched_once_and_the_plan_has_its_shape(here, monkeypatch):
    asked = []

    def download(name, file, **options):
        asked.append(name)
        path = here / "config.json"
        path.write_text(json.dumps(LLAMA))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    composed = compose(["recipe=math_sft", "hardware=8xh100", "base_model=Org/Model-1B"])
    assert composed.model == "Org/Model-1B" and composed.posttrain.base_model.name == "Model-1B"
    assert composed.posttrain.base_model.config.hidden_size == 64 and asked == ["Org/Model-1B"]
    assert compose(
        ["recipe=math_sft", "hardware=8xh100", "base_model=Qwen/Qwen2.5-7B-Instruct"]
    ).posttrain.base_model.config
    assert asked == ["Org/Model-1B"]  # conf/base_model describes that one


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_cache_of_the_hub_is_enough(here, monkeypatch, offline):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("the download tries six times"))
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    assert naming.fetch_config("Org/Model-1B") is None
    with pytest.raises(
        InputError, match="Org/Model-1B is not in the hub's cache of this machine, and cannot be fetched: "
    ):
        naming.find_model("Org/Model-1B")
    snapshot = here / "hub" / "models--Org--Model-1B"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc" / "config.json").write_text(json.dumps(LLAMA))
    assert naming.fetch_config("Org/Model-1B") == LLAMA
    assert naming.find_model("Org/Model-1B") == "Org/Model-1B"


def test_a_slow_network_may_still_have_the_model(here, monkeypatch):
    def slow(*_, **__):
        raise httpx.ConnectTimeout("3 s are over")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", slow)
    assert naming.fetch_config("Org/Model-1B") is None
    assert naming.find_model("Org/Model-1B") == "Org/Model-1B"


def test_what_a_run_trained_is_a_model(here, monkeypatch):
    run = RunFolder.create(here / "runs" / "my_grpo" / "g2")
    run.write_config(OmegaConf.create({"actor_rollout_ref": {}}))
    run.write_plan({"stage": "rl"})
    folder = run.checkpoints / "global_step_9" / "actor" / "huggingface"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(NO_WEIGHTS)
    there = [f"posttrain.runs_dir={here}/runs"]
    for may_export in (False, True):
        named = recipe_verbs.name_weights("base_model=run:my_grpo/g2", there, may_export)
        assert named == [f"base_model={folder}", "posttrain.base_model.name='my_grpo-g2-9'",
                         f"posttrain.base_model.run='{run.path}'"]  # fmt: skip
    assert recipe_verbs.name_weights("base_model=tiny", there, True) == ["base_model=tiny"]
    (folder / "model.safetensors").unlink()
    (folder.parent / "fsdp_config.json").write_text('{"world_size": 1}')
    for kind in ("model", "optim", "extra_state"):
        torch.save({}, folder.parent / f"{kind}_world_size_1_rank_0.pt")
    monkeypatch.setattr(weights, "_run_export", lambda run, step, checkpoint, out: pytest.fail("check exports nothing"))
    assert recipe_verbs.name_weights("base_model=run:g2", [], False)[0] == f"base_model={folder}"
    (folder / "tokenizer.json").write_text("{}")
    (problem,) = model.check_folder(folder, run=str(run.path))
    assert problem.level == "warning" and problem.remedy == "launch exports them before anything else"
    assert model.check_folder(folder)[0].level == "problem"


def test_a_launch_exports_what_only_shards_hold_and_a_check_does_not(here, monkeypatch):
    (here / "shards" / "huggingface").mkdir(parents=True)
    (here / "export").mkdir()
    for folder in (here / "shards" / "huggingface", here / "export"):
        (folder / "config.json").write_text(json.dumps(LLAMA))
    (here / "export" / "model.safetensors").write_bytes(NO_WEIGHTS)
    run = RunFolder(here / "runs" / "my_grpo" / "g2")
    monkeypatch.setattr(RunFolder, "find", lambda name, runs_dir="runs": run)
    monkeypatch.setattr(weights, "result_step", lambda run: 9)
    monkeypatch.setattr(weights, "present_folder", lambda run: here / "shards" / "huggingface")
    monkeypatch.setattr(weights, "ensure_weights", lambda run: here / "export")
    words = ["recipe=math_grpo", "hardware=8xh100", "base_model=run:g2", "run_id=next"]
    checked = recipe_verbs.compose_arguments(words)
    assert checked.model == str(here / "shards" / "huggingface")
    launched = recipe_verbs.export_weights(checked)
    assert launched.model == str(here / "export") and launched.posttrain.base_model.run == str(run.path)
    assert launched.run_dir().name == "next" and recipe_verbs.export_weights(launched) is launched
    (here / "shards" / "huggingface" / "model.safetensors").write_bytes(NO_WEIGHTS)
    assert recipe_verbs.export_weights(checked) is checked, "VeRL saved the weights"
    (here / "shards" / "lora_train_meta.json").write_text("{}")
    assert recipe_verbs.export_weights(checked).model == str(here / "export"), (
        "base and adapter side by side are not a model"
    )
