"""The tokenizers of the embedded models, as everyone else loads them: AutoTokenizer on the folder."""

import functools
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

BYTE_LEVEL = ["tiny", "tiny_untied", "nano_2m"]
TEXTS = [
    "",
    "47+85=",
    "Two  spaces, a\ttab,\n\na blank line \n and a trailing one ",
    "1234567890 3.14159 -42",
    "Olá, naïve façade: Ωμέγα, Привет, こんにちは世界, שלום, ﷽",
    "👩🏽‍🚀 and 🂡 𐍈 \u200b zero width",
    "def f(x):\n    return {x: [1, 2]} # it's fine, isn't it ?!",
    "$\\frac{1}{2} \\le x^{10} \\neq \\boxed{7}$ #### 12 , . !",
]


@pytest.fixture(scope="session")
def tokenizer_of(folder_of):
    return functools.cache(lambda name: AutoTokenizer.from_pretrained(folder_of(name)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", [*BYTE_LEVEL, "smollm2_135m"])
def test_text_survives_the_round_trip(tokenizer_of, name, text):
    tokenizer = tokenizer_of(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(alphabet=st.characters(max_codepoint=0x2FF)))
def test_byte_level_ids_are_the_bytes(tokenizer_of, text):
    assume("<|" not in text)
    assert tokenizer_of("nano_2m").encode(text) == list(text.encode())


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "smollm2_135m"])
def test_the_end_of_sequence_is_the_end_of_a_turn(tokenizer_of, folder_of, name):
    tokenizer = tokenizer_of(name)
    config = json.loads((folder_of(name) / "config.json").read_text())
    generation = json.loads((folder_of(name) / "generation_config.json").read_text())
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == config["eos_token_id"] == generation["eos_token_id"]
    assert tokenizer.pad_token_id == config["pad_token_id"] == generation["pad_token_id"]
    assert len(tokenizer) == config["vocab_size"]


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "smollm2_135m"])
def test_digits_are_tokens_of_their_own(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode("x=12345+678")
    assert [tokenizer.decode([number]) for number in ids][-9:] == list("12345+678")


def test_smollm2_pads_with_its_end_of_turn(tokenizer_of):
    tokenizer = tokenizer_of("smollm2_135m")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_smollm2_spaces_before_punctuation_survive_decoding(tokenizer_of):
    tokenizer = tokenizer_of("smollm2_135m")
    assert tokenizer.decode(tokenizer.encode(" a , b . c ! do n't")) == " a , b . c ! do n't"


def test_byte_level_prompt_is_short(tokenizer_of):
    tokenizer = tokenizer_of("nano_2m")
    question = [{"role": "user", "content": "47+85="}]
    assert tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>u47+85=<|im_end|>\n<|im_start|>a"
    )


def test_smollm2_prompt_opens_the_answer(tokenizer_of):
    prompt = tokenizer_of("smollm2_135m").apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("name", ["nano_2m", "smollm2_135m"])
def test_special_tokens_are_single_ids(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert tokenizer.encode(token) == [tokenizer.convert_tokens_to_ids(token)]
