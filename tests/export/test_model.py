"""The folder of an export that vLLM could not load as its base is published."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_verl import base_models
from posttrain_verl.export import weights
from posttrain_verl.verl.vllm_models import DUAL_CHUNK


@pytest.fixture
def trained(tmp_path):
    """The tiny model with dual chunk attention in its config, and a checkpoint's folder with its tokenizer."""
    tiny = base_models.ensure_model("tiny")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "checkpoint" / "huggingface")
    whole = AutoModelForCausalLM.from_pretrained(tiny)
    setattr(whole.config, DUAL_CHUNK, {"chunk_size": 64, "local_size": 8, "original_max_position_embeddings": 64})
    return whole


def test_it_promises_what_any_vllm_can_build_and_says_so(trained, tmp_path):
    said = weights.write_model(trained, "merged", "float32", tmp_path / "checkpoint", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert DUAL_CHUNK not in config and config["max_position_embeddings"] == 64
    assert said.startswith(DUAL_CHUNK) and "32768 -> 64" in said


def test_any_other_config_is_kept(trained, tmp_path):
    delattr(trained.config, DUAL_CHUNK)
    assert weights.write_model(trained, "merged", "float32", tmp_path / "checkpoint", tmp_path / "out") == ""
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 32768
