"""Multiple choice: which letters an answer names. A letter with its text ("C) 42", "E: a better one") counts as the letter."""

import re

LETTERS = "A-K"
CHOICE = re.compile(rf"\(?([{LETTERS}])\)?\.?")
SEVERAL = re.compile(rf"\(?([{LETTERS}])\)?(?:(?:\s*(?:,|;|and|&)\s*|\s*)\(?([{LETTERS}])\)?)+\.?")
WITH_TEXT = re.compile(rf"(?:\(([{LETTERS}])\)|([{LETTERS}])\s*[).:])\s*(?=\S)")
REASON = re.compile(
    rf"\(?([{LETTERS}])\)?\s*(?:,|--?|\u2014|\u2013|=|\b(?:because|since|as|is|for|which|due)\b)", re.IGNORECASE
)
NAMED = re.compile(
    rf"(?:^|[\s*(\[])\(?([{LETTERS}])(?=[)\].:,*]|\s*$|\s+(?:or|and)\b|\s,)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)s?\s\(?([{LETTERS}])\b"
)
NEGATED = re.compile(r"\b(?:not|no|except|but|incorrect|wrong|false|neither|never|excluding)\b|n't\b", re.IGNORECASE)
REFUSED = re.compile(
    rf"[\s,;]+(?:(?:and|but)\s+)?(?:not|rather\s+than|instead\s+of)\s+\(?[{LETTERS}]\)?\.?\Z"
)  # "C, not B"
LABEL = re.compile(rf"(?:^|[\s,;])\(?([{LETTERS}])(?:[).:])(?=\s|\S)")


def gold_letters(gold: str) -> str:
    """The letters that a gold names, in order, "" when it is no choice. Several must stand in the order of the alphabet."""
    if match := CHOICE.fullmatch(gold):
        return match.group(1)
    if SEVERAL.fullmatch(gold):
        letters = re.findall(rf"[{LETTERS}]", gold)
        return "".join(letters) if letters == sorted(set(letters)) else ""
    return ""


def labelled(text: str) -> tuple[str, str]:
    """(letter, text) of a choice that is written with its text, as "(C) 12"; ("", text) of anything else."""
    match = WITH_TEXT.match(text)
    return (match.group(1) or match.group(2), text[match.end() :]) if match else ("", text)


def named(text: str) -> set[str]:
    return {letter for pair in NAMED.findall(text) for letter in pair if letter}


def same_letters(gold: str, answer: str) -> bool:
    """Whether an answer, in plain text, names the letters of the gold: "C", "(C)", "C) 42", "option C", "C because ...".

    Several in any order: "A and C", "CA". A bare letter counts in either case."""
    answer = REFUSED.sub("", answer)
    bare = answer.strip(" ()[].")
    if len(gold) == 1:
        if len(bare) == 1:
            return bare.upper() == gold
        label, _ = labelled(answer)
        if label and not LABEL.search(answer[3:]):
            return label == gold
        if NEGATED.search(answer):
            return False
        reason = REASON.match(answer)
        if reason and reason.group(1).isupper() and named(answer) <= {reason.group(1), "A", "I"}:
            return reason.group(1) == gold
        return named(answer) == {gold}
    if SEVERAL.fullmatch(bare) or SEVERAL.fullmatch(answer):
        return set(re.findall(rf"[{LETTERS}]", bare)) == set(gold)
    return set(LABEL.findall(answer)) == set(gold)
