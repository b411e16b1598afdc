"""The weights of the embedded models, as everyone else loads them: AutoModelForCausalLM on the folder."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_verl.base_models import random_qwen2


@pytest.mark.parametrize(
    ("name", "least", "most", "tied"),
    [
        ("tiny", 5e4, 1e6, True),
        ("tiny_untied", 5e4, 1e6, False),
        ("nano_2m", 1.5e6, 2.5e6, True),
        pytest.param("smollm2_135m", 1.34e8, 1.36e8, True, marks=pytest.mark.slow),
    ],
)
def test_size_and_finite_logits(folder_of, name, least, most, tied):
    model = AutoModelForCausalLM.from_pretrained(folder_of(name), dtype=torch.float32)
    assert least < model.num_parameters() < most
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    tokens = AutoTokenizer.from_pretrained(folder_of(name))("47+85=", return_tensors="pt")
    assert torch.isfinite(model(**tokens).logits).all()


def test_random_weights_are_the_same_in_every_cache(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        torch.manual_seed(hash(folder) % 1000)
        random_qwen2.write_tiny(folder)
    one, two = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == two


@pytest.mark.slow
def test_smollm2_answers_a_simple_question(folder_of):
    """Wrongly permuted or quantised weights give finite logits too, but no sense."""
    folder = folder_of("smollm2_135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**tokens, max_new_tokens=24, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert tokenizer.eos_token_id in output
