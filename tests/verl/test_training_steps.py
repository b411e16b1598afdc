"""What a measured step counts, against torch's own counting."""

import pytest

from posttrain_verl.base_models.shape import shape_of_config
from posttrain_verl.first_gpu_hour.training_steps import training_flops

KEYS = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 160, "vocab_size": 259, "tie_word_embeddings": True}  # fmt: skip
LENGTH = 64


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_operations_are_those_that_torch_counts(frozen):
    """torch counts the whole matrix of attention, the formula its causal half; both leave out gradients of frozen weights."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**KEYS)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.requires_grad_(not frozen)
    embedded = model.get_input_embeddings()(torch.randint(259, (1, LENGTH))).detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    shape = shape_of_config(KEYS)
    causal_half = 6 * shape.layers * shape.q_width * LENGTH**2
    assert counter.get_total_flops() == pytest.approx(training_flops(shape, [LENGTH], frozen) + causal_half, rel=0.02)


def test_sequences_attend_to_themselves_alone():
    shape = shape_of_config(KEYS)
    one, two = training_flops(shape, [128], False), training_flops(shape, [64, 64], False)
    assert one - two == 6 * shape.layers * shape.q_width * (128**2 - 2 * 64**2)
