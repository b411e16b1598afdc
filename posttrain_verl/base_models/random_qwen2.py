"""Small models of Qwen2's architecture with random weights and a byte-level tokenizer: any text, no merges, 259 ids.

The demo trains one from nothing, tests take the tiny ones. Head sizes are multiples of 32: vLLM's CPU attention
(0.27.1) takes 32, 64, 80, 96, 112, 128 and larger.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from posttrain_verl.terminal.console import log

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 256 + 3

# ChatML with one-letter roles (s, u, a, t), so that a byte-level prompt stays short. The marker names and the newline
# after a turn are what VeRL 0.9.1 expects of every model of type qwen2 (QwenContinuousTokenBuilder).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'][0] + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>a' }}{% endif %}"
)


def byte_level_tokenizer(max_length: int) -> Qwen2Tokenizer:
    """Ids 0 to 255 are the byte values; 256 pads, 257 opens a turn, 258 closes it and is the end of sequence.

    `max_length` is in tokens, that is bytes. Text is brought to Unicode's NFC first, as every Qwen2 tokenizer does:
    transformers 5 loads that class for a model of type qwen2 whatever the folder says, so it is the one written.
    """
    # The printable character that stands for each byte in byte-level BPE (GPT-2's `bytes_to_unicode`), to the byte.
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    letters = {chr(byte): byte for byte in kept} | {chr(256 + place): byte for place, byte in enumerate(moved)}
    return Qwen2Tokenizer(
        vocab=letters | {PAD: 256, START: 257, END: 258},
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


SEED = 20260801
MAX_LENGTH = 32768


def write_tiny(folder: Path) -> None:
    """0.1 M parameters: 2 layers of width 64, grouped-query attention (2 heads on 1), tied embeddings."""
    _write_model(folder, width=64, layers=2, heads=2, key_value_heads=1, tied=True)


def write_tiny_untied(folder: Path) -> None:
    """`tiny` with an output layer of its own: the other path that a weight update can take."""
    _write_model(folder, width=64, layers=2, heads=2, key_value_heads=1, tied=False)


def write_nano_2m(folder: Path) -> None:
    """1.8 M parameters: 4 layers of width 192, 3 heads of size 64."""
    _write_model(folder, width=192, layers=4, heads=3, key_value_heads=3, tied=True)


def _write_model(folder: Path, width: int, layers: int, heads: int, key_value_heads: int, tied: bool) -> None:
    tokenizer = byte_level_tokenizer(MAX_LENGTH)
    config = Qwen2Config(
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
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    log.info(f"random weights, seed {SEED}: {model.num_parameters() / 1e6:.2f} M parameters")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
