"""The tiny model keeps what decides an architecture, for every model of conf/base_model."""

import pytest
from omegaconf import OmegaConf
from transformers import AutoConfig

from posttrain_verl import paths
from posttrain_verl.rehearse.tiny_model import tiny_config

FILES = sorted((paths.conf_dir() / "base_model").glob("*.yaml"))
SHAPES = {file.stem: OmegaConf.to_container(config) for file in FILES if (config := OmegaConf.load(file).get("config"))}


@pytest.mark.parametrize("name", SHAPES)
def test_architecture_is_kept(name):
    original = SHAPES[name]
    small = AutoConfig.for_model(**tiny_config(original, 259))
    assert small.model_type == original["model_type"]
    assert small.tie_word_embeddings == original["tie_word_embeddings"]
    assert small.max_position_embeddings == original["max_position_embeddings"]
    ratio = original["num_attention_heads"] // original["num_key_value_heads"]
    assert small.num_attention_heads // small.num_key_value_heads == ratio
    assert hasattr(small, "num_experts") == ("num_experts" in original)
    assert small.hidden_size <= 512 and small.num_hidden_layers == 2 and small.vocab_size == 259


@pytest.mark.parametrize("name", SHAPES)
def test_whether_the_head_size_follows_from_the_width_is_kept(name):
    original, small = SHAPES[name], tiny_config(SHAPES[name], 259)
    follows = original.get("head_dim") in (None, original["hidden_size"] // original["num_attention_heads"])
    assert (small["hidden_size"] == small["num_attention_heads"] * small["head_dim"]) == follows


def test_a_whole_config_json_is_made_small():
    """Of a real config.json with lists of an entry a layer, transformers can make the small one."""
    whole = AutoConfig.for_model("qwen3", num_hidden_layers=36).to_dict()
    small = AutoConfig.for_model(**tiny_config(whole, 1000))
    assert len(small.layer_types) == small.num_hidden_layers == 2
    assert small.eos_token_id is None or small.eos_token_id < 1000
