"""The words that the filters know, from `words.toml`: units, commands of LaTeX, and frequent words of languages."""

import tomllib
from pathlib import Path

_TEXTS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
WORDS = {name: frozenset(text.split()) for name, text in _TEXTS.items()}
