"""Flaws of a text as a text: it stops in the middle, repeats itself, is not English, or needs a picture that the row lacks."""

import re
from collections import Counter

from data_prep.filters.gold import has_final_answer
from data_prep.filters.vocabulary import WORDS

_DANGLING = re.compile(
    r"(?:[,(\[{+/=<>&]|(?<!\*)\*|[\u2013\u2014]|\s-|\b(?:the|a|an|of|and|or|to|is|are|was|were|be|with|for|by|from|in|that|which|then|so|we|"
    r"because|if|as|at|than|what|how|when|where|who|do|does|did|has|have|had|can|will|would|could|per|each|every|many|much|his|"
    r"her|their|its|our|my|your|he|she|they|there|these|those|let|into|but|not|between|both|about|after|before))$",
    re.IGNORECASE,
)
_ASKS = re.compile(r"^\W*(?:what|how|who|which|when|where|why|find|solve|compute|calculate|evaluate|simplify|determine|give|show|"
                   r"prove|write|express|factor|expand|convert|round|name|list|state|differentiate|integrate|let|is|are|add|"
                   r"subtract|multiply|divide|can|does|do|return|create|implement|design)\b", re.IGNORECASE)  # fmt: skip
_SENTENCE_END = re.compile(r"[.?!][\"')\]$]*\s+(?=[A-Z\d$\\(])")
_WORD_AT_END = re.compile(r"(?<![\\$\w])[A-Za-z]{2,}$")
_FINISHED = re.compile(r"[.?!:)\]}$>\"'`|~%*\u00bb\u201d\u2019\u00b0\u2026\u25a0\u25a1\u220e]$|####[^\n]*$|\\\]$")
_COMPLETE_STEP = re.compile(r"=\s*\\?\$?-?\d(?:[\d.,/]*\d)?%?(?:\s+[A-Za-z]+){0,4}$")
_LAST_NUMBER = re.compile(r"\d(?:\s+[A-Za-z]+){1,2}$")
_AFTER_ANSWER = re.compile(r"%?(?:\s+[A-Za-z]+){0,4}")
# A question to be completed: "The sum of 3 and 4 equals", "If x+3=5, then the value of x is".
_BLANK_AT_END = re.compile(
    r"\b(?:equals|(?:is|are) equal to)$"
    r"|\b(?:value|sum|number|product|area|volume|probability|length|perimeter|ratio|difference|remainder|result|answer|solutions?"
    r"|roots?|range|domain|set|interval|equation|coordinates?|angle|distance|mean|average|median|maximum|minimum|digit|slope)"
    r"\b[^.?!]* (?:is|are)$",
    re.IGNORECASE,
)
_UNITS = "|".join(
    sorted(
        (WORDS["measures"] | WORDS["tight_units"] | {"degrees", "degree", "units", "percent"}) - {"in"},
        key=len,
        reverse=True,
    )
)
# A number with its unit: 36 cm^2, 60 km/h, 45 degrees; or the unit that an answer is asked in.
_QUANTITY = re.compile(
    rf"(?:\d\s*|\b(?:in|nearest) )(?:(?:square|cubic|sq\.?|cu\.?) )?(?:{_UNITS}|[mgLhsd])(?: ?(?:/|per) ?(?:{_UNITS}|[mgLhsd]))?"
    r"(?:\^\{?[23]\}?|[\u00b2\u00b3])?$"
)
_LEAST = 12  # characters; shorter questions are formulas


def cut_question(question: str) -> str | None:
    """How a question breaks off, or None: at a word that cannot be the last, or at any word without a full stop, where
    sentences before it have one or nothing is asked."""
    tail = question.rstrip()
    if len(tail) <= _LEAST or tail[-1] == "=" or _BLANK_AT_END.search(tail) or _QUANTITY.search(tail):
        return None
    if _DANGLING.search(tail):
        return f"the question ends in {tail[-30:]!r}"
    if not _WORD_AT_END.search(tail):
        return None
    sentences = _SENTENCE_END.split(tail)
    asks = any(_ASKS.search(sentence) or "?" in sentence for sentence in "\n".join(sentences).split("\n"))
    stops = len(sentences) > 1 and "\n" not in sentences[-1]
    return f"the question ends in {tail[-30:]!r}" if stops or not asks else None


def cut_solution(solution: str, answer: str = "") -> str | None:
    """How a worked solution breaks off, or None: an open thought or code fence, or an end inside a sentence. One whose last
    words say the gold `answer` has arrived, with or without a full stop."""
    tail = solution.rstrip()
    if not tail:
        return "the solution is empty"
    if tail.count("<think>") > tail.count("</think>"):
        return "a <think> that never ends"
    if tail.count("```") % 2:
        return "a code fence that never ends"
    trails_off = tail.endswith(("...", "\u2026")) and not has_final_answer(tail)
    if trails_off or _DANGLING.search(tail) or (not _says_last(tail, answer) and _stops_short(tail)):
        return f"the solution ends in {tail[-30:]!r}"
    return None


def _says_last(tail: str, answer: str) -> bool:
    """Whether a text ends in the answer, with at most four words after it: "so 7 apples are left"."""
    gold = answer.strip().replace(",", "")
    before, said, after = tail.replace(",", "").rpartition(gold or tail)
    return bool(gold and said) and not before[-1:].isalnum() and _AFTER_ANSWER.fullmatch(after) is not None


def _stops_short(tail: str) -> bool:
    """Whether the last line has no full stop, though it is a sentence and other lines have theirs."""
    *lines, last = [line.rstrip() for line in tail.splitlines() if line.strip()]
    if _QUANTITY.search(tail):
        return False
    if lines and tail[-1] in "%0123456789" and all(line[-1] in ".?!" for line in lines):
        return not has_final_answer(tail)
    if _FINISHED.search(tail) or tail[-1].isdigit() or _COMPLETE_STEP.search(tail):
        return False
    if not lines and _LAST_NUMBER.search(last) and not _SENTENCE_END.search(last):
        return False  # one sentence with its result: nothing says that its writer uses full stops
    if lines and sum(not _FINISHED.search(line) for line in lines) * 2 > len(lines):
        return False  # a writer who uses none
    return len(last.split()) >= 4 or not has_final_answer(tail)


_SCAN = 5_000  # characters of a word looked at for loops
_LONG_LOOP = re.compile(r"(.{12,200}?)\1{3,}", re.DOTALL)
_SHORT_LOOP = re.compile(r"(.{1,11}?)\1{5,}", re.DOTALL)
_SHORT_LEAST = 60  # characters that a loop of less than 12 fills at least; 1000000 is a number
_RULES = set("-=_.*#~|:+ \u2014")  # lines that people draw
_LONGEST = 200  # words of a passage
_SENTENCE = 12  # words; longer passages need to stand three times on end, not four
_REAL_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MARK = re.compile(r"^\W*(?:(?:step|case|part)\s+)?\d+\s*[.:)]\s*", re.IGNORECASE)


def find_repetition(text: str) -> str | None:
    """The passage that a text repeats in a loop, or None.

    A loop is the same words on end: one word 8 times, two 6 times, up to 12 words 4 times, up to 200 words 3 times. It is also
    the same characters inside one word. Of nine lines or more it is a line of 20 or more characters that makes up a third.
    """
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
            passage = words[place : place + gap]
            if gap > _LONGEST or passage != words[place - gap : place]:
                gap = 0
            run[window] = (gap, held + 1 if gap and gap == before else 1)
            if gap and run[window][1] >= _most_repeats(passage):
                return " ".join(passage)
        last[window] = place
    return None


def _most_repeats(passage: list[str]) -> int:
    """How often a passage may follow itself. Sums of equal terms and rows of zeros are not loops."""
    if not any(_REAL_WORD.search(word) for word in passage):
        return 40 if len(passage) < 3 or len(set(passage)) == 1 else 12
    return {1: 7, 2: 5}.get(len(passage), 3 if len(passage) <= _SENTENCE else 2)


_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"(?<![\w'\u2019\\])[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?(?!\w)")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|```.*?```|\\[A-Za-z]+|https?://\S+", re.DOTALL)
_ENGLISH, _FOREIGN = WORDS["english"], WORDS["foreign"] - WORDS["english"]
_FEW = 3  # a name or a quotation
_ENOUGH = 7  # different words without an English one among them


def other_language(text: str) -> str | None:
    """Why `text` is not English, or None: letters of another script than Latin and Greek, more words of another language
    (or with its accents) than frequent English ones, or none of those at all. Formulas and names do not count."""
    letters = _LETTER.findall(text)
    foreign = sum("\u0400" <= letter <= "\u1fff" or letter >= "\u3000" for letter in letters)
    greek = sum("\u0386" <= letter <= "\u03ff" for letter in letters)
    if (foreign > 3 and foreign > 0.05 * len(letters)) or (greek > 20 and greek > 0.5 * len(letters)):
        return f"{max(foreign, greek)} of {len(letters)} letters belong to another script"
    words = [word for word in _WORD.findall(_FORMULA.sub(" ", text)) if not word.isupper()]
    names = {word for word in words[1:] if word[0].isupper()}
    english = sum(word.lower() in _ENGLISH for word in words)
    if english * 4 > len(words):
        return None
    plain = [word for word in words if word not in names]
    other = sum(word.lower() in _FOREIGN or not word.isascii() for word in plain)
    if (other >= _FEW and other > english) or (other >= 2 and not english and other * 2 >= len(plain)):
        return f"{other} words of another language, {english} English ones"
    if not english and len({word.lower() for word in words}) >= _ENOUGH:
        return f"no English word among {len(words)}: {' '.join(words[:6])!r}"
    return None


_KIND = r"(?:(?:pie|bar|line|circle|scatter|box|stem|tree|venn|coordinate|street|road)[ -])?"
# What stands in a text only for a picture, and what may be part of the story as well ("an animal in the picture").
_SURE = r"(?:figures?|diagrams?)"
_ANY = rf"{_KIND}(?:figure|diagram|number line|graph|chart|picture|image|drawing|illustration|sketch|photo|photograph|plot|map)"
_BESIDE = r"below|above|here|at (?:the )?(?:left|right)|(?:to|on) the (?:left|right)"
_PLACE = rf"(?:{_BESIDE}|shown|provided|pictured|attached|displayed)"
_SHOWN = r"(?:shown|pictured|depicted|illustrated|sketched|displayed|indicated|marked)"
# Words that name a picture, or are one.
_POINTS = "|".join(
    (
        r"!\[[^\]]*\]\([^)]*\)|<img\b|<image>|\\includegraphics|\[asy\]|\\begin\{(?:tikzpicture|asy|picture)\}",
        r"https?://\S+\.(?:png|jpe?g|gif|svg|webp)|cdn\.mathpix",
        r"[\[(](?:see )?(?:image|figure|diagram|picture|graph)(?: (?:not shown|omitted|here|below|above|\d+))?[\])]",
        rf"\b{_SHOWN} (?:in|by|on) (?:the |this |our )?(?:\w+ )?{_ANY}\b",
        rf"\b(?:in|from|see|using|use|refer to|consult|examine|study|consider|observe|look at) (?:the|this) "
        rf"(?:\w+ )?{_SURE}\b(?! skating)",
        rf"\b(?:based on|according to|refer to|look at|using|see) (?:the|this) (?:\w+ )?{_ANY}\b",
        rf"\b(?:the|this) (?:\w+ )?{_ANY} (?:(?:is|are) )?{_PLACE}\b",
        rf"\b(?:consider|use|using|study) (?:the |this )?(?:\w+ )?{_ANY} {_PLACE}\b",
        rf"\b(?:the|this) {_ANY} (?:shows|depicts|illustrates|displays)\b",
        rf"\b(?:following|adjacent|accompanying|attached|adjoining) {_ANY}\b(?! of speech)",
        r"\b(?:graph|diagram|sketch|plot) of [^.]{1,50} is (?:shown|drawn|given|displayed)\b",
        r"\bfig(?:ure|\.) ?\(?\d",
    )
)
# Words that point somewhere: to a picture, unless the text holds what they point to.
_POINTS_SOMEWHERE = "|".join((rf"\b{_SHOWN} (?:{_BESIDE})\b", rf"\bas {_SHOWN}(?=[,.;?!]|$)"))
_TOLD = re.compile(
    r"^[ \t]*\|.*\||\\begin\{(?:array|tabular|[a-z]*matrix|cases|align)|\$\$|\\\[|```"  # a table or a display
    r"|(?:^[^A-Za-z\n]*\d[^A-Za-z\n]*(?:\n|$)){2}"  # rows of numbers
    r"|(?:^[ \t]*(?:[-*\u2022]|\(?\w\)|\d+[.)]) .*(?:\n|$)){2}"  # a list
    r"|[A-Za-z]\s*(?:\([A-Za-z]\)\s*)?=|(?:\d\s*[-+*/,]\s*){3}\d",  # a formula, or a row of numbers
    re.MULTILINE,
)
_ABSTRACT = re.compile(
    r"graph\b.*\b(?:vert(?:ex|ices)|nodes?|edges?)\b|(?:vertices|nodes)\b.*\bgraph\b", re.IGNORECASE | re.DOTALL
)
_CHART = re.compile(r"\b(?:graph|chart|plot|drawing|map|picture|sketch)\b", re.IGNORECASE)
_DATA = re.compile(r"^[ \t]*\|.*\||^[^.?!\n]{0,60}:\s*(?:\S+ )?\$?\d+(?:[^.?!\d]{1,20}\$?\d+){2}", re.MULTILINE)
_DRAWN = re.compile(
    rf"(?:\b(?:{_ANY}|triangle|circle|square|rectangle|trapezoid|parallelogram|rhombus|kite|quadrilateral|polygon|pentagon|hexagon"
    r"|octagon|shape|solid|cube|prism|pyramid|cylinder|cone|sphere|grid|board|spinner|region|shaded|angle|segment|arc)s?\b"
    r"(?! of (?:numbers|digits|integers))|\\(?:triangle|angle))[^.?!]*$",
    re.IGNORECASE,
)
_PICTURE = re.compile(_POINTS, re.IGNORECASE)
_SOMEWHERE = re.compile(_POINTS_SOMEWHERE, re.IGNORECASE)
# A cheap test for texts that could match.
SUSPECT = (
    r"(?i)image|figure|diagram|pictur|graph|shown|depicted|illustrated|sketch|marked|indicated|displayed|\[asy|<img|tikz"
    r"|!\[|chart|plot|drawing|map|photo|number line|https?://|\bfig\."
)


def needs_image(question: str) -> str | None:
    """The words that point to a picture. Pictures drawn in code count: few models read them.

    A table, a list, a display or a formula that the text holds is what `shown below` points to, if no drawing is named.
    """
    found = next((found for found in _PICTURE.finditer(question) if not _is_told(question, found)), None)
    if not found and (pointer := _SOMEWHERE.search(question)):
        found = None if _TOLD.search(question) and not _DRAWN.search(question[: pointer.start()]) else pointer
    return f"needs a picture: {found.group()[:60]!r}" if found else None


def _is_told(question: str, found: re.Match[str]) -> bool:
    """Whether the text holds the picture: the edges of a graph, the table or the numbers of a chart, or who of the story made it
    ("Ann makes a chart ... The chart shows")."""
    named = _CHART.search(found.group())
    if not named:
        return False
    before, after = question[: found.start()], question[found.end() :]
    made = r"(?:makes?|made|draws?|drew|takes?|took|paints?|painted|has|have|buys?|bought) (?:an?|his|her|their)"
    introduced = re.search(
        rf"\b{made} (?:\w+ )?{named.group()}\b|\ba {named.group()}\b.*\bscale\b", before, re.IGNORECASE
    )
    is_abstract = found.group().lower().endswith("following graph") and _ABSTRACT.search(question)
    return bool(introduced or is_abstract or _DATA.search(after))
