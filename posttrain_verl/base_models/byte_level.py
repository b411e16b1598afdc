"""A tokenizer whose tokens are the 256 bytes: any text, no merges, no training, 259 ids."""

from transformers import Qwen2Tokenizer

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
    return Qwen2Tokenizer(
        vocab=_byte_vocabulary() | {PAD: 256, START: 257, END: 258},
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _byte_vocabulary() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's `bytes_to_unicode`), to the byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + place): byte for place, byte in enumerate(moved)}
