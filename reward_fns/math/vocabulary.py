"""The words that readers of answers know, from vocabulary.toml."""

import tomllib
from pathlib import Path

_TABLES = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))

UNITS: dict[str, str] = {}  # spelling -> symbol
for _symbol, _names in _TABLES["units"].items():
    UNITS |= {_symbol: _symbol} | dict.fromkeys(_names, _symbol)


def listed(table: str, name: str) -> list[str]:
    return str(_TABLES[table][name]).split()


def words(table: str, name: str) -> frozenset[str]:
    return frozenset(listed(table, name))
