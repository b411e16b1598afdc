"""What vLLM cannot build of a model, and that dual chunk attention is plain attention where it is left out."""

import json
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from posttrain_verl import base_models, paths
from posttrain_verl.compose import compose
from posttrain_verl.export import proof
from posttrain_verl.preflight import machine, model
from posttrain_verl.verl import vllm_models

QWEN_1M = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
SMALL = {"chunk_size": 16, "local_size": 4, "original_max_position_embeddings": 16}


def distance(query: int, key: int, chunk: int, local: int) -> int:
    """How far apart dual chunk attention sees two positions (arXiv 2402.17463, section 3; chunks of `chunk - local`)."""
    length = chunk - local
    apart = query // length - key // length
    seen = {0: query % length, 1: min(query % length + length, chunk)}.get(apart, chunk)
    return seen - key % length


def true_up_to(length: int) -> bool:
    pairs = [(query, key) for query in range(length) for key in range(query + 1)]
    return all(distance(query, key, SMALL["chunk_size"], SMALL["local_size"]) == query - key for query, key in pairs)


def test_it_is_plain_attention_up_to_the_length_and_no_further():
    plain = vllm_models.plain_length(SMALL)
    assert true_up_to(plain)
    assert not true_up_to(plain + 2)


def test_the_length_of_a_config_that_says_less():
    assert vllm_models.plain_length(QWEN_1M) == 262144
    assert vllm_models.plain_length({"chunk_size": 32768, "original_max_position_embeddings": 4096}) == 4096
    assert vllm_models.plain_length({}) == vllm_models.CHUNK_SIZE


def test_it_is_left_out_where_it_is_not_needed():
    short, long = SimpleNamespace(dual_chunk_attention_config=SMALL), SimpleNamespace(dual_chunk_attention_config=SMALL)
    assert vllm_models.drop_dual_chunk(short, 16) and not hasattr(short, vllm_models.DUAL_CHUNK)
    assert not vllm_models.drop_dual_chunk(long, 17) and hasattr(long, vllm_models.DUAL_CHUNK)
    assert not vllm_models.drop_dual_chunk(SimpleNamespace(), 1)
    assert vllm_models.drop_dual_chunk(SimpleNamespace(dual_chunk_attention_config=None), 10**6), "overridden by null"


def test_an_export_promises_the_context_that_is_left():
    config = SimpleNamespace(dual_chunk_attention_config=QWEN_1M, max_position_embeddings=1010000)
    assert "1010000 -> 262144" in vllm_models.make_plain(config)
    assert vars(config) == {"max_position_embeddings": 262144}
    assert vllm_models.make_plain(config) == ""


def test_the_check_refuses_what_needs_dual_chunk_attention_and_nothing_shorter(monkeypatch):
    recipe, key = ["recipe=code_grpo", "hardware=8xh100"], "actor_rollout_ref.rollout.max_model_len"
    monkeypatch.setattr(machine, "is_here", lambda composed: True)
    assert model.check_architecture(compose(recipe)) == []
    (problem,) = model.check_architecture(compose([*recipe, f"{key}=300000"]))
    assert "33470" in problem.what and "262144" in problem.remedy
    (whole,) = model.check_architecture(compose([*recipe, f"{key}=null"]))
    assert "1010000 tokens" in whole.what
    monkeypatch.setattr(machine, "is_here", lambda composed: False)
    (elsewhere,) = model.check_architecture(compose([*recipe, f"{key}=300000"]))
    assert elsewhere.level == "warning", "the vLLM there may be another"


@pytest.mark.parametrize("given", ['{\\"architectures\\":[\\"Phi3SmallForCausalLM\\"]}', "no json", "3"])
def test_overrides_of_the_models_config_in_other_forms(given):
    """vLLM takes JSON; of what is none it says so itself."""
    word = f'+actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides="{given}"'
    found = model.check_architecture(compose(["recipe=math_grpo", "hardware=cpu", word]))
    assert ["0.9.2" in problem.what for problem in found] == [True] * given.startswith("{")


def test_no_model_of_the_library_is_refused():
    configs = [OmegaConf.load(file).config for file in (paths.conf_dir() / "base_model").glob("*.yaml")]
    assert len([config for config in configs if config]) > 30
    assert [vllm_models.find_unbuildable(config, 4096) for config in configs if config] == [[]] * (len(configs) - 1)


def test_an_architecture_that_vllm_gave_up_is_named_with_its_last_version(monkeypatch):
    _, gone = vllm_models._removed_architectures()
    assert gone["Phi3SmallForCausalLM"] == "0.9.2 was the last with it"
    (problem,) = vllm_models.find_unbuildable({"architectures": ["Phi3SmallForCausalLM"]}, 0)
    assert problem.level == "problem" and "0.9.2" in problem.what
    monkeypatch.setattr(vllm_models, "_foreign_plugins", lambda: True)
    (unsure,) = vllm_models.find_unbuildable({"architectures": ["Phi3SmallForCausalLM"]}, 0)
    assert unsure.level == "warning"


def test_without_vllm_nothing_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert vllm_models._removed_architectures.__wrapped__() == ("", {})


@pytest.fixture
def stretched(tmp_path):
    """The tiny model as Qwen2.5-1M is published: with dual chunk attention, and the file that vLLM looks for then."""
    folder = tmp_path / "stretched"
    folder.mkdir()
    for file in base_models.ensure_model("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {vllm_models.DUAL_CHUNK: QWEN_1M}))
    (folder / "sparse_attention_config.json").write_text(json.dumps({"0": {"0": ["vertical_and_slash", 1, 1]}}))
    return folder


@pytest.mark.slow
def test_vllm_answers_as_transformers_does(stretched):
    from transformers import AutoModelForCausalLM

    texts = [[72, 101, 108, 108, 111], [87, 111, 114, 108, 100, 33]]
    expected = proof.token_logprobs(AutoModelForCausalLM.from_pretrained(stretched), texts)
    found = proof.check_vllm_agreement("", stretched, expected, texts, "float32")
    assert found.passed, found.saw


@pytest.mark.slow
def test_without_the_plugin_it_is_a_finding_and_no_traceback(stretched, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "posttrain_cpu")
    found = proof.check_vllm_agreement("", stretched, [-1.0], [[72, 101]], "float32")
    assert found.passed is False
    assert found.saw.startswith("vLLM does not run the export: ")
