"""Parameters counted from a config.json's keys are those that the model cards publish."""

import json

import pytest
from omegaconf import OmegaConf

from posttrain_verl import base_models, paths
from posttrain_verl.base_models import shape as shapes

# Parameters as the models' safetensors metadata or cards give them, tied embeddings once.
PUBLISHED = {
    "qwen2_5_0_5b_instruct": 494_032_768,
    "qwen2_5_1_5b_instruct": 1_543_714_304,
    "qwen2_5_3b_instruct": 3_085_938_688,
    "qwen2_5_7b_instruct": 7_615_616_512,
    "qwen2_5_14b_instruct": 14_770_033_664,
    "qwen2_5_32b_instruct": 32_763_876_352,
    "qwen2_7b_instruct": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "qwen3_30b_a3b": 30_532_122_624,
    "llama3_1_8b_instruct": 8_030_261_248,
    "llama3_2_1b_instruct": 1_235_814_400,
    "llama3_2_3b_instruct": 3_212_749_824,
    "deepseek_r1_distill_qwen_1_5b": 1_777_088_000,
    "deepseek_r1_distill_llama_8b": 8_030_261_248,
    "smollm2_135m": 134_515_008,
}
FOLDER = paths.conf_dir() / "base_model"
FILES = sorted(FOLDER.glob("*.yaml"))


def shape_of(name: str) -> shapes.Shape:
    return shapes.shape_of_config(OmegaConf.load(FOLDER / f"{name}.yaml").config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_count_is_the_published_one(name):
    assert shape_of(name).parameters == pytest.approx(PUBLISHED[name], rel=0.001)


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "folder"])
def test_every_model_file_has_a_shape(name):
    assert shape_of(name).parameters > 50_000


def test_a_folder_and_its_file_agree():
    assert shapes.shape_of_folder(base_models.ensure_model("tiny")) == shape_of("tiny")


def test_a_missing_size_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64, "vocab_size": 100}))
    with pytest.raises(KeyError, match="num_hidden_layers, num_attention_heads, intermediate_size"):
        shapes.shape_of_folder(tmp_path)


def test_lora_on_all_linears_of_qwen2_5_7b():
    # 28 layers x 32 x (q and o: 3584+3584, k and v: 3584+512, gate, up and down: 3584+18944)
    assert shape_of("qwen2_5_7b_instruct").lora_parameters(32) == 28 * 32 * (2 * 7168 + 2 * 4096 + 3 * 22528)


def test_kv_bytes_of_llama_3_1_8b():
    shape = shape_of("llama3_1_8b_instruct")
    assert shape.kv_bytes(1) == 2 * 32 * 8 * 128 * 2
    assert shape.kv_bytes(16) == 2 * 32 * 128 * 2, "a head is never split"
