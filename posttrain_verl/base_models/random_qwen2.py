"""Small models of Qwen2's architecture with random weights: the demo trains one from nothing, tests take the tiny ones.

Head sizes are multiples of 32: vLLM's CPU attention (0.27.1) takes 32, 64, 80, 96, 112, 128 and larger.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from posttrain_verl.base_models.byte_level import VOCABULARY, byte_level_tokenizer

SEED = 20260801
MAX_LENGTH = 32768


def write_tiny(folder: Path, report: Callable[[str], object]) -> None:
    """0.1 M parameters: 2 layers of width 64, grouped-query attention (2 heads on 1), tied embeddings."""
    _write(folder, _config(width=64, layers=2, heads=2, key_value_heads=1, tied=True), report)


def write_tiny_untied(folder: Path, report: Callable[[str], object]) -> None:
    """`tiny` with an output layer of its own: the other path that a weight update can take."""
    _write(folder, _config(width=64, layers=2, heads=2, key_value_heads=1, tied=False), report)


def write_nano_2m(folder: Path, report: Callable[[str], object]) -> None:
    """1.8 M parameters: 4 layers of width 192, 3 heads of size 64."""
    _write(folder, _config(width=192, layers=4, heads=3, key_value_heads=3, tied=True), report)


def _config(width: int, layers: int, heads: int, key_value_heads: int, tied: bool) -> Qwen2Config:
    tokenizer = byte_level_tokenizer(MAX_LENGTH)
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        # 8/3 of the width, as for every gated MLP, rounded to whole cache lines
        intermediate_size=round(width * 8 / 3 / 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=tied,
        initializer_range=0.05,  # about 1/sqrt(width): at Qwen2's 0.02, made for widths of thousands, learning starts late
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )


def _write(folder: Path, config: Qwen2Config, report: Callable[[str], object]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    report(f"random weights, seed {SEED}: {model.num_parameters() / 1e6:.2f} M parameters")
    model.save_pretrained(folder)
    byte_level_tokenizer(MAX_LENGTH).save_pretrained(folder)
