"""The grade that every reward returns, with the same keys always, and what a recipe may add to its score.

VeRL takes the key list of `reward_extra_info` from the first sample of a batch: a missing key would shift the others.
Shaping adds to the verifier's score, or gates it. It is off by default. A recipe names the parts and their weights
(`shaping={"overlong": {"weight": 1.0, "max_tokens": 2048, ...}}`). Each part is logged under its own key, so that a rising score
can be told from a rising bonus.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

KEYS = ("score", "acc", "format", "answered", "verifier_error", "pred")
PRED_LIMIT = 200


@dataclass(frozen=True)
class Grade:
    """One verdict.

    `score` is what the policy is trained on, 0 to 1 before shaping. `acc` is 1 for a right answer. `format` is 1 when the answer
    stands where the task asked for it. `answered` is 1 when an answer was found at all. `verifier_error` is 1 when the verifier
    could not decide; then `acc` is 0, and the answer may still be right. `pred` is the answer as it was read, cut to 200
    characters. `why` says for people what decided.
    """

    score: float = 0.0
    acc: float = 0.0
    format: float = 0.0
    answered: float = 0.0
    verifier_error: float = 0.0
    pred: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, float | str]:
        """The grade as VeRL logs it: floats and one string, in a fixed order.

        `pred` is one line of valid UTF-8 with at most 200 characters, so that any logger and Parquet accept it."""
        cut = self.pred if len(self.pred) <= PRED_LIMIT else self.pred[: PRED_LIMIT - 1] + "…"
        pred = cut.encode("utf-8", "replace").decode().replace("\x00", "").replace("\n", "\\n")
        return {**{key: float(getattr(self, key)) for key in KEYS if key != "pred"}, "pred": pred}


SCRIPTS: dict[str, tuple[str, ...]] = {
    "en": ("LATIN",), "de": ("LATIN",), "fr": ("LATIN",), "es": ("LATIN",), "ru": ("CYRILLIC",), "el": ("GREEK",),
    "zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL",), "ar": ("ARABIC",), "he": ("HEBREW",),
    "hi": ("DEVANAGARI",), "th": ("THAI",),
}  # fmt: skip


def format_gate(score: float, well_formed: float) -> float:
    """The score of a well-formed answer, 0 of any other. A gate, where DeepSeek-R1 (arXiv 2501.12948, 2.2.2) adds:
    an added bonus can be earned without being right."""
    return score if well_formed else 0.0


def soft_overlong(tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), from 0 down to -1.

    0 up to `max_tokens - buffer_tokens`, then falling linearly to -1 at `max_tokens`, -1 beyond."""
    if not 0 < buffer_tokens <= max_tokens:
        raise ValueError(f"buffer_tokens must lie in 1..max_tokens={max_tokens}, got {buffer_tokens}")
    over = tokens - (max_tokens - buffer_tokens)
    return -min(1.0, max(0.0, over / buffer_tokens))


def repetition_penalty(text: str, *, ngram: int = 20) -> float:
    """Share of word n-grams that repeat an earlier one, negative: 0 for none, towards -1 for a loop.

    The n-gram penalty of Yeo et al. (arXiv 2502.03373, appendix), over the whole response."""
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    words = text.split()
    total = len(words) - ngram + 1
    if total <= 0:
        return 0.0
    distinct = len({tuple(words[i : i + ngram]) for i in range(total)})
    return distinct / total - 1.0


def language_consistency(text: str, *, language: str = "en") -> float:
    """Share of letters in the script of `language`, 0 to 1 (1 for a text without letters).

    DeepSeek-R1 (arXiv 2501.12948, 2.3.2) rewards the share of words in the target language; scripts stand for
    languages here, which tells the mixing that occurs (English and Chinese), and not English from French."""
    if language not in SCRIPTS:
        raise ValueError(f"language must be one of {sorted(SCRIPTS)}, got {language!r}")
    letters = [script_name(character) for character in text if character.isalpha()]
    return sum(name.startswith(SCRIPTS[language]) for name in letters) / len(letters) if letters else 1.0


@lru_cache(maxsize=65536)
def script_name(character: str) -> str:
    return unicodedata.name(character, "")


@lru_cache(maxsize=4)
def token_counter(tokenizer: str) -> Callable[[str], int]:
    """Count tokens with the tokenizer of a Hugging Face name or folder."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


def overlong_part(response: str, *, tokenizer: str, **limits: int) -> float:
    return soft_overlong(token_counter(tokenizer)(response), **limits)


PARTS: dict[str, Callable[..., float]] = {
    "overlong": overlong_part,
    "repetition": repetition_penalty,
    "language": language_consistency,
}


def shape_grade(grade: Grade, response: str, plan: Mapping[str, Mapping[str, object]]) -> dict[str, float | str]:
    """The grade as a dict, its score shaped: gate first, then plus weight times each part, logged as `shape_<part>`.

    `plan` maps "format_gate" (no settings) and the names of PARTS to their settings with a `weight`. `acc` stays the
    verifier's. Raises ValueError for an unknown part."""
    if unknown := set(plan) - set(PARTS) - {"format_gate"}:
        raise ValueError(f"unknown shaping {sorted(unknown)}; known: format_gate, {', '.join(PARTS)}")
    result = grade.as_dict()
    score = format_gate(grade.score, grade.format) if "format_gate" in plan else grade.score
    for name, part in PARTS.items():
        if name in plan:
            settings = {key: value for key, value in plan[name].items() if key != "weight"}
            value = part(response, **settings)
            result[f"shape_{name}"] = value
            score += float(str(plan[name].get("weight", 1.0))) * value
    return {**result, "score": float(score)}
