"""Flaws of plain text: loops, other languages, missing pictures, texts that stop in the middle."""

from __future__ import annotations

import re
from collections import Counter

_IMAGE = re.compile(
    r"!\[[^\]]*\]\([^)]*\)|<img\b|\\includegraphics|\[asy\]|\\begin\{(?:tikzpicture|asy)\}|<image>"
    r"|\b(?:shown|pictured|depicted|illustrated) (?:below|above|in the (?:figure|diagram|picture|image))\b"
    r"|\b(?:in|from|see) the (?:figure|diagram|picture|image|graph) (?:below|above|shown|to the (?:left|right))\b"
    r"|\bthe (?:figure|diagram|picture|image) (?:below|above|shows)\b|\b(?:adjacent|accompanying) (?:figure|diagram)\b",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"\w+")
_ENGLISH = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "and",
        "in",
        "is",
        "are",
        "was",
        "were",
        "for",
        "on",
        "with",
        "that",
        "this",
        "it",
        "as",
        "at",
        "by",
        "from",
        "be",
        "has",
        "have",
        "had",
        "how",
        "what",
        "which",
        "if",
        "each",
        "find",
        "then",
        "so",
        "we",
        "he",
        "she",
        "they",
        "his",
        "her",
        "many",
        "much",
        "more",
        "than",
    ]
)
# Function words of languages in Latin letters that English does not share (Spanish, French, German, Italian,
# Portuguese, Dutch, Polish, Turkish, Vietnamese, Indonesian).
_FOREIGN = frozenset(
    [
        "el",
        "los",
        "las",
        "una",
        "del",
        "que",
        "por",
        "para",
        "con",
        "está",
        "cuántos",
        "cuántas",
        "le",
        "les",
        "une",
        "des",
        "et",
        "est",
        "dans",
        "pour",
        "avec",
        "combien",
        "qui",
        "sur",
        "der",
        "die",
        "das",
        "und",
        "ist",
        "mit",
        "ein",
        "eine",
        "von",
        "zu",
        "wie",
        "viele",
        "nicht",
        "il",
        "gli",
        "della",
        "che",
        "quanti",
        "quante",
        "nel",
        "o",
        "os",
        "uma",
        "quantos",
        "com",
        "em",
        "não",
        "het",
        "een",
        "van",
        "hoeveel",
        "en",
        "niet",
        "jest",
        "ile",
        "się",
        "na",
        "kaç",
        "bir",
        "ve",
        "bao",
        "nhiêu",
        "của",
        "yang",
        "dan",
        "berapa",
        "dari",
    ]
)
_DANGLING = re.compile(
    r"(?:[,(\[{+*/=<>&]|\b(?:the|a|an|of|and|or|to|is|are|was|with|for|by|from|in|that|which|then|so|we|because))$",
    re.IGNORECASE,
)
_FINISHED = re.compile(r"[.!?:)\]}$>\"'`|~%*\u00bb\u201d\u2019\u00b0\u2026\u25a0\u25a1\u220e]$|####[^\n]*$|\\\]$")
_LOOP_SCAN = 5_000  # characters of a word looked at for loops
_LOOP = re.compile(r"(.{12,200}?)\1{3,}", re.DOTALL)


def needs_image(question: str) -> str | None:
    """The words that point to a picture the row does not carry. Pictures drawn in code count: few models read them."""
    found = _IMAGE.search(question)
    return f"needs a picture: {found.group()[:60]!r}" if found else None


def other_language(text: str) -> str | None:
    """Why `text` is not English, or None: letters of another script than Latin and
    Greek, or more function words of another language than English ones."""
    letters = _LETTER.findall(text)
    foreign = sum("\u0400" <= letter <= "\u1fff" or letter >= "\u3000" for letter in letters)
    if foreign > 3 and foreign > 0.05 * len(letters):
        return f"{foreign} of {len(letters)} letters belong to another script"
    words = [word.lower() for word in _WORD.findall(text)]
    english, other = (sum(word in known for word in words) for known in (_ENGLISH, _FOREIGN))
    return f"{other} function words of another language, {english} English ones" if other > max(3, english) else None


def repeats(text: str) -> str | None:
    """The passage that a text repeats in a loop, or None: the same 3 to 40 words four times on end, the same 12 to 200
    characters four times inside one word, or one line of 20 or more characters that makes up a third of nine lines."""
    words = text.split()
    for word in words:
        if len(word) >= 48 and (found := _LOOP.search(word[:_LOOP_SCAN])) and len(set(found.group(1))) > 3:
            return f"repeats {found.group(1)[:40]!r}"
    if passage := _word_loop(words):
        return f"repeats {passage[:40]!r}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line, count = Counter(lines).most_common(1)[0] if len(lines) >= 9 else ("", 0)
    return f"repeats the line {line[:40]!r} {count} times" if len(line) >= 20 and count * 3 >= len(lines) else None


def _word_loop(words: list[str]) -> str | None:
    """The first passage of 3 to 40 words that stands four times on end."""
    last: dict[tuple[str, str, str], int] = {}
    run: dict[tuple[str, str, str], tuple[int, int]] = {}  # (distance of the last two, how often it held)
    for place, window in enumerate(zip(words, words[1:], words[2:], strict=False)):
        if window in last:
            gap = place - last[window]
            before, held = run.get(window, (0, 0))
            run[window] = (gap, held + 1 if gap == before else 1)
            passage = words[place : place + gap]
            if run[window][1] >= 3 and 3 <= gap <= 40 and passage == words[place - gap : place]:
                return " ".join(passage) if len(set(passage)) > 1 else None
        last[window] = place
    return None


def cut_question(question: str) -> str | None:
    """How a question breaks off, or None."""
    tail = question.rstrip()
    return (
        f"the question ends in {tail[-30:]!r}"
        if len(tail) > 12 and _DANGLING.search(tail) and tail[-1] != "="
        else None
    )


def cut_solution(solution: str) -> str | None:
    """How a worked solution breaks off, or None: an open thought or code fence, or an end inside a sentence."""
    tail = solution.rstrip()
    if not tail:
        return "the solution is empty"
    if tail.count("<think>") > tail.count("</think>"):
        return "a <think> that never ends"
    if tail.count("```") % 2:
        return "a code fence that never ends"
    last_line = tail.rsplit("\n", 1)[-1]
    if _DANGLING.search(tail) or (
        len(last_line.split()) >= 4 and not _FINISHED.search(tail) and not tail[-1].isdigit()
    ):
        return f"the solution ends in {tail[-30:]!r}"
    return None
