"""VeRL's own data sets read what was built, and the loss mask of SFT ends on the end-of-turn token."""

import pytest

import data_prep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    from posttrain_verl import base_models

    return transformers.AutoTokenizer.from_pretrained(base_models.ensure_model("nano_2m"))


@pytest.fixture
def folder(tmp_path):
    config = {
        "sources": {"sums": {"from": "column_sums", "operators": ["+"], "size": 2000}},
        "splits": {name: {"rows": 64, "sources": {"sums": 1}} for name in ("rl_train", "sft_train")},
    }
    data_prep.build(config, tmp_path)
    return tmp_path


def test_rl_rows(folder, tokenizer, tmp_path):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create(
        {"max_prompt_length": 64, "cache_dir": str(tmp_path / "cache"), "filter_overlong_prompts": True}
    )
    data = RLHFDataset(str(folder / "rl_train.parquet"), tokenizer, config)
    assert len(data) == 64
    row = data[0]
    assert row["data_source"] == "embedded/chain_sum" and row["reward_model"]["ground_truth"].isdigit()
    assert row["index"] == 0


def test_sft_rows_and_their_loss_mask(folder, tokenizer):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    data = MultiTurnSFTDataset(
        str(folder / "sft_train.parquet"), tokenizer, OmegaConf.create({"max_length": 128, "pad_mode": "no_padding"})
    )
    assert len(data) == 64
    for number in range(8):
        row = data[number]
        trained = row["input_ids"][row["loss_mask"].bool()]
        text = tokenizer.decode(trained)
        assert "#### " in text
        assert tokenizer.eos_token_id in trained[-2:].tolist()
