"""What conf/base_model says of a model is what its published config.json says; the hub is asked where it can be reached."""

import json
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from omegaconf import OmegaConf

from posttrain_verl import paths

NODES = [OmegaConf.load(file) for file in sorted((paths.conf_dir() / "base_model").glob("*.yaml"))]
HUB = {node.name: node for node in NODES if not node.embedded and node.config}
# What changes a decoder beside its sizes: without one of them the model that is built is another.
FORM = {"architectures", "hidden_act", "rms_norm_eps", "rope_theta"}
OF_A_TYPE = {
    "llama": {"rope_scaling", "attention_bias", "mlp_bias"},
    "qwen2": {"use_sliding_window", "sliding_window", "max_window_layers"},
    "qwen3": {"head_dim", "attention_bias", "use_sliding_window"},
    "qwen3_moe": {"head_dim", "attention_bias", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"},
}


@pytest.mark.parametrize("name", HUB)
def test_every_key_that_changes_the_model_is_there(name):
    config = HUB[name].config
    assert not (FORM | OF_A_TYPE[config.model_type]) - config.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", HUB)
def test_it_is_what_is_published(name, tmp_path, hub):
    node = HUB[name]
    try:
        file = hf_hub_download(node.path, "config.json", local_dir=tmp_path)
    except GatedRepoError:
        pytest.skip(f"{node.path} is gated")
    published = {"head_dim": None, **json.loads(Path(file).read_text())}
    ours = OmegaConf.to_container(node.config)
    told = {key: value for key, value in ours.items() if key != "head_dim" or published["head_dim"]}
    assert told == {key: published.get(key) for key in told}


@pytest.fixture(scope="session")
def hub() -> None:
    try:
        hf_hub_download(HUB["qwen3_8b"].path, "config.json", etag_timeout=5)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        pytest.skip(f"the hub cannot be reached: {type(error).__name__}")
