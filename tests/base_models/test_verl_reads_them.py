"""VeRL's own data set and token builder on the embedded tokenizers."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

MESSAGES = [
    {"role": "user", "content": "47+85="},
    {"role": "assistant", "content": "7+5=12\n#### 132"},
    {"role": "user", "content": "1+1="},
    {"role": "assistant", "content": "#### 2"},
]


@pytest.mark.parametrize("name", ["tiny", "smollm2_135m"])
def test_the_loss_covers_the_answers_and_their_end(folder_of, tmp_path, name):
    """As for every ChatML model the newline after the end of the turn is in the loss too."""
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [MESSAGES]}), file)
    tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
    config = OmegaConf.create({"pad_mode": "no_padding", "truncation": "error", "max_length": 256})
    row = MultiTurnSFTDataset([str(file)], tokenizer, config)[0]
    trained = row["input_ids"][row["loss_mask"].bool()]
    assert tokenizer.decode(trained) == "7+5=12\n#### 132<|im_end|>\n#### 2<|im_end|>\n"
    assert (trained == tokenizer.eos_token_id).sum() == 2


@pytest.mark.parametrize("name", ["tiny", "smollm2_135m"])
def test_turns_added_one_by_one_equal_the_whole_conversation(folder_of, name):
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
    # SmolLM2's type is llama, for which VeRL takes the builder without Qwen's newline: ask for ChatML by name.
    builder = create_continuous_token_builder(tokenizer, model_family="qwen")
    tokens = builder.build_initial_tokens(MESSAGES[:1])
    answer = [*tokenizer.encode(MESSAGES[1]["content"]), tokenizer.eos_token_id]
    tokens = builder.merge_assistant_tokens(tokens, answer).token_ids
    tokens = builder.merge_context_tokens(MESSAGES[:2], MESSAGES[:3], tokens).token_ids
    whole = tokenizer.apply_chat_template(MESSAGES[:3], add_generation_prompt=True, return_dict=True)
    assert tokens == whole["input_ids"]
