"""Words after a value: a unit of measurement, a thing that is counted, or words that carry meaning.

The rule, the same for gold and answer: a unit or a thing may be missing on either side. Where both have one they must
agree: two units by their symbols ("cm" is "centimeters", "m/s" is "meters per second", "$" is "dollars"), other words when one
side has all words of the other ("6 pears left" for "6 pears"). Units are not converted. Words that carry meaning, as AM, north or
odd, are never a unit: a gold that has one is answered only by an answer that has it.
"""

import re
from collections import Counter
from functools import lru_cache

from reward_fns.math import vocabulary

SYMBOLS = vocabulary.UNITS
SIGNS = "$€£¥₹¢"  # of currencies
SHARED_NAMES = {
    "£": re.compile(r"\bpounds?\b"),
    "¥": re.compile(r"\b(?:yen|yuan|RMB)\b|\u5143"),
}  # a pound is a weight, too

MEANING = vocabulary.words("words", "meaning")
FILLERS = vocabulary.words("words", "fillers")
ATTRIBUTES = vocabulary.words("words", "attributes")
MAX_WORDS = 6
SHORT = 3  # letters of a symbol
WORD = re.compile(rf"[^\W\d_]+(?:[-'.][^\W\d_]+)*|[/^*·{SIGNS}-]|\d")
POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


@lru_cache(maxsize=2048)
def is_label(words: str) -> bool:
    """Whether words after a value are only a unit or the thing that is counted."""
    if unit(words) is not None:
        return True
    said = plain(words)
    return 0 < len(said) <= MAX_WORDS and not any(word in MEANING or not word[0].isalpha() for word in said)


def says_more(words: str) -> bool:
    """Whether words that the gold does not have only add to its value (4 PM, 25 south) and do not change it (4 dozen)."""
    said = plain(words)
    return 0 < len(said) <= MAX_WORDS and all(word in ATTRIBUTES or word not in MEANING for word in said)


def plain(words: str) -> list[str]:
    return [word.casefold().rstrip(".") for word in WORD.findall(words) if word not in SIGNS]


@lru_cache(maxsize=2048)
def unit(words: str) -> frozenset[tuple[str, int]] | None:
    """{(symbol, power)} of a unit such as "m/s^2" or "square feet"; None when a word is no unit."""
    powers: Counter[str] = Counter()
    sign, raised, last = 1, 1, ""
    tokens = WORD.findall(words.replace("²", "^2").replace("³", "^3"))
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token in ("/", "per") and last:
            sign = -1
        elif token == "^" and last:
            minus = position < len(tokens) and tokens[position] == "-"
            position += minus
            if position >= len(tokens) or not tokens[position].isdigit():
                return None
            power = int(tokens[position]) * (-1 if minus else 1)
            powers[last] += sign * (power - 1)
            position += 1
        elif token in POWERS and last and token.endswith("ed"):
            powers[last] += sign * (POWERS[token] - 1)
        elif token in POWERS:
            raised = POWERS[token]
        elif token in ("*", "·", "-") and last:
            continue
        elif (symbol := symbol_of(token.rstrip("."))) is not None:
            powers[symbol] += sign * raised
            raised, last = 1, symbol
        else:
            return None
    split = {"mph": {"mi": 1, "h": -1}, "kmh": {"km": 1, "h": -1}}
    for whole, parts in split.items():
        if count := powers.pop(whole, 0):
            powers.update({name: power * count for name, power in parts.items()})
    return frozenset((name, power) for name, power in powers.items() if power or name == last) if last else None


def symbol_of(word: str) -> str | None:
    """The symbol of a unit. Names are read in any case and number, symbols as they are."""
    if word in SYMBOLS or len(word) <= SHORT:
        return SYMBOLS.get(word)
    lower = word.casefold()
    return next(
        (SYMBOLS[name] for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")) if name in SYMBOLS), None
    )


def agree(gold: str, answer: str) -> bool:
    """Whether the words after two equal values allow them to be the same answer."""
    gold, answer = (words.removesuffix("or so").strip(" ()").removeprefix("in ").strip() for words in (gold, answer))
    for sign, name in SHARED_NAMES.items():
        if (sign in gold) != (sign in answer):
            gold, answer = name.sub(sign, gold), name.sub(sign, answer)
    if not gold or not answer:
        return not (gold or answer) or is_label(gold or answer) or (not gold and says_more(answer))
    if {gold, answer} in ({"deg", "C"}, {"deg", "F"}):
        return True
    ours, theirs = unit(gold), unit(answer)
    if ours is not None and theirs is not None:
        return ours == theirs or any({name for name, _ in known} == {"unit"} for known in (ours, theirs))
    stems, given = stem_words(gold), stem_words(answer)
    return is_subsequence(stems, given) or is_subsequence(given, stems)


def is_subsequence(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether `words` stand in `others` in this order."""
    rest = iter(others)
    return all(word in rest for word in words)


def is_symbol(word: str) -> bool:
    return len(word) <= SHORT and word.casefold() not in MEANING


def stem_words(words: str) -> tuple[str, ...]:
    """The words that carry meaning, in order, without endings. Short ones keep their case: mW is not MW, nor Co CO."""
    said = (word.rstrip(".") for word in WORD.findall(words))
    kept = (symbol_of(word) or (word if is_symbol(word) else word.casefold()) for word in said)
    return tuple(re.sub(r"(?:ies|y|es|e|s)$", "", word) for word in kept if word.casefold() not in FILLERS)
