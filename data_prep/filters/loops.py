"""Texts that run in circles."""

from __future__ import annotations

import re
from collections import Counter

_SCAN = 5_000  # characters of a word looked at for loops
_LONG_LOOP = re.compile(r"(.{12,200}?)\1{3,}", re.DOTALL)
_SHORT_LOOP = re.compile(r"(.{1,11}?)\1{5,}", re.DOTALL)
_SHORT_LEAST = 60  # characters that a loop of less than 12 fills at least; 1000000 is a number
_RULES = set("-=_.*#~|:+ \u2014")  # lines that people draw
_LONGEST = 200  # words of a passage
_SENTENCE = 12  # words; longer passages need to stand three times on end, not four
_REAL_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MARK = re.compile(r"^\W*(?:(?:step|case|part)\s+)?\d+\s*[.:)]\s*", re.IGNORECASE)


def repeats(text: str) -> str | None:
    """The passage that a text repeats in a loop, or None: the same words on end (one word 8 times, two 6 times, up to 12
    words 4 times, up to 200 words 3 times), the same characters inside one word, or one line of 20 or more characters,
    whatever its number in a list, that makes up a third of nine lines."""
    words = text.split()
    for word in words:
        if len(word) >= 48 and (found := _letter_loop(word[:_SCAN])):
            return f"repeats {found[:40]!r}"
    if passage := _word_loop(words):
        return f"repeats {passage[:40]!r}"
    lines = [_MARK.sub("", line).strip() for line in text.splitlines() if line.strip()]
    line, count = Counter(lines).most_common(1)[0] if len(lines) >= 9 else ("", 0)
    return f"repeats the line {line[:40]!r} {count} times" if len(line) >= 20 and count * 3 >= len(lines) else None


def _letter_loop(word: str) -> str | None:
    if (found := _LONG_LOOP.search(word)) and len(set(found.group(1))) > 3:
        return found.group(1)
    for found in _SHORT_LOOP.finditer(word):
        if len(found.group()) >= _SHORT_LEAST and set(found.group(1)) - _RULES:
            return found.group(1)
    return None


def _word_loop(words: list[str]) -> str | None:
    """The first passage that stands on end too often."""
    last: dict[tuple[str, str, str], int] = {}
    run: dict[tuple[str, str, str], tuple[int, int]] = {}  # (distance of the last two, how often it held)
    for place, window in enumerate(zip(words, words[1:], words[2:], strict=False)):
        if window in last:
            gap = place - last[window]
            before, held = run.get(window, (0, 0))
            run[window] = (gap, held + 1 if gap == before else 1)
            passage = words[place : place + gap]
            if run[window][1] >= _most(passage) and gap <= _LONGEST and passage == words[place - gap : place]:
                return " ".join(passage)
        last[window] = place
    return None


def _most(passage: list[str]) -> int:
    """How often a passage may follow itself. Sums of equal terms and rows of zeros are no loops."""
    if not any(_REAL_WORD.search(word) for word in passage):
        return 40 if len(passage) < 3 or len(set(passage)) == 1 else 12
    return {1: 7, 2: 5}.get(len(passage), 3 if len(passage) <= _SENTENCE else 2)
