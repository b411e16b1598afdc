r"""Find the final answer in a completion. The rule, in order:

1. Only what follows the last `</think>` counts (a thought that never ends holds no answer), up to the first
   end-of-turn marker or, once an answer was given, a further "Question:" that the model makes up for itself.
2. The last `\boxed{...}` or `#### ...` line, whichever stands later. Those with nothing but connectives between them
   (`\boxed{1} or \boxed{2}`) are one answer in several parts, never a choice of the lucky one. More than MAX_BOXES
   different boxes are not an answer. A `####` that opens a section ("#### Step 2: Money" with text below) is a heading.
3. In flexible mode a "final answer is" after that supersedes it when both are numbers and they differ.
4. Without such a marker the last `<answer>...</answer>`.
5. Without any, in flexible mode only: what follows the last "answer is", "Answer:" or "A:".
6. Else, in flexible mode, where the response ends as a text does: the last value (a formula in dollars, or a number) of the
   last sentence that holds one and is not a question. Values joined by commas, "or" and the like are parts of one answer.

Nothing is read from what was cut off (a box or a formula that never closes), from a subscript or an exponent, from an
operand of a sum that was not worked out, or from a loop. A value that the text denies, supposes or changes is no answer
(`claims`).

An answer in several parts equals a gold of as many parts, and no single number.
"""

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from reward_fns.math import claims, notation
from reward_fns.text import after_thought, first_turn

MAX_BOXES = 4
LONGEST = 200_000  # characters at the end of a completion that are read at all
MAX_RUN = 20  # boxes side by side; more change nothing
TAIL = 20_000  # characters at the end of a completion in which a phrase or a bare value is searched
NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}(?:\*\*|#+ )?(?:Question|Q|Problem|Human|User|Instruction)(?:\s*\d*)?\s*:")
ANNOTATION = re.compile(r"<<[^<>\n]*(?:>>|>?\Z)")  # GSM8K's calculator marks
# Emoji and marks of a proof's end, but no crosses, which deny.
EMOJI = re.compile(
    rf"(?:(?![{claims.CROSSES}])[\u220e\u25a0\u25a1\u2600-\u27bf\u2b50\u2b55\ufe0f\u200d\U0001f300-\U0001faff])+"
)
CLOSING_LINE = re.compile(r"\n[ \t]*[-*_=]{3,}\s*\Z")


@dataclass(frozen=True)
class Answer:
    """The final answer as written. `where` is one of boxed, hash, tag, phrase, last, or "" when there is none;
    `parts` has more than one entry when several answers stand side by side; a box or #### ends at `end`."""

    parts: tuple[str, ...] = ()
    where: str = ""
    end: int = 0

    @property
    def text(self) -> str:
        return ", ".join(self.parts)

    @property
    def strict(self) -> bool:
        return self.where in ("boxed", "hash", "tag")


def final_answer(response: str, mode: str = "flexible") -> Answer:
    """The final answer of `response`. `mode` is "strict" (a box, #### or a tag) or "flexible". Linear in the length."""
    text = notation.plain_characters(first_turn(after_thought(response)[-LONGEST:]))
    # After an answer a model may continue with a question that it makes up.
    answered = ANSWERED.search(text)
    if answered and (question := NEXT_QUESTION.search(text, answered.end())):
        text = text[: question.start()]
    answer = last_marked(text)
    if unclosed_box(text, answer.end if answer else 0):
        return Answer()  # the last box decides, and it was cut off
    if not answer:
        answer = tagged_answer(text[-TAIL:])
        if answer:
            return answer
    if mode == "flexible":
        tail = undecorated((text[answer.end :] if answer else text)[-TAIL:])
        if answer:
            return revised_answer(answer, tail)
        whole, cut = drop_unfinished(tail)
        answer = last_phrase(whole, cut) or (None if cut else last_value(whole))
    return answer or Answer()


def undecorated(text: str) -> str:
    """`text` without marks of calculators, emoji, and a line that closes it."""
    plain = ANNOTATION.sub("", text)
    return CLOSING_LINE.sub("", plain if plain.isascii() else EMOJI.sub("", plain))


BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=[\w$\\-]))")
BARE = re.compile(r"[^\s$.,;]*")
WORDS = (
    "or and maybe perhaps possibly also either alternatively else could might be may it is answer another option the "
    "quad qquad text mathrm textbf if not then even just in case other to so both final possible well as number for "
    "part a b c d"
)
CHINESE_WORDS = r"\u6216\u8005?|\u548c|\u4e0e|\u4ee5?\u53ca|\u4e5f|\u53ef\u80fd|\u662f|\u7b54\u6848|\u53e6\u4e00\u4e2a"
CONNECTIVE = re.compile(
    rf"(?:{CHINESE_WORDS}|[\s,;:.$&\\()\[\]{{}}*/|#!?0-9-]|\b(?:{'|'.join(WORDS.split())})\b|\b[a-z](?:_\{{?\d+\}}?)?\s*=)*"
)


def last_marked(text: str) -> Answer | None:
    """The last box or `#### answer`, or the last run of them that only connectives separate. None without any."""
    found = find_boxes(text)
    too_many = len({"".join(content.split()) for _, _, content in found}) > MAX_BOXES
    marks = sorted([*((*box, "boxed") for box in found), *((*line, "hash") for line in find_hashes(text))])
    if not marks:
        return None
    run = [marks[-1]]
    for mark in marks[-2:-MAX_RUN:-1]:
        gap = text[mark[1] : run[-1][0]]
        if len(gap) > 200 or not CONNECTIVE.fullmatch(gap.lower()):
            break
        run.append(mark)
    _, end, _, where = marks[-1]
    if where == "boxed" and too_many:
        return Answer(end=end)
    return Answer(distinct_parts(content for _, _, content, _ in reversed(run)), where, end)


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of every complete outermost \boxed{...}, \fbox{...} or \boxed 5."""
    found: list[tuple[int, int, str]] = []
    position = 0
    while match := BOX.search(text, position):
        if match.group(1):
            end = notation.closing_brace(text, match.end())
            if end < 0:
                break  # truncated: the rest is inside it
            position = end + 1
        else:
            bare = BARE.match(text, match.end())
            position = end = bare.end() if bare else match.end()
        content = text[match.end() : end]
        if content.strip():
            found.append((match.start(), position, content))
    return found


def unclosed_box(text: str, start: int) -> bool:
    """Whether a box after `start` is never closed: what stands in it was cut off and may be half a number."""
    return any(match.group(1) and notation.closing_brace(text, match.end()) < 0 for match in BOX.finditer(text, start))


SPAN = re.compile(
    r"\\\[.*?\\\]|\\\(.*?\\\)|\$\$.*?\$\$|(?<![\\$])\$(?=[^\s$])[^$\n]*?(?<=\S)\$(?!\d)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    re.DOTALL,
)
OPENING = re.compile(
    r"\\\[|\\\(|\$\$|(?<![\\$])\$(?=[\\A-Za-z({|])[^$\n]*\Z|\\begin\{|\\(?:frac|sqrt|text|mathrm)\s*\{|[_^]\{"
)


def drop_unfinished(text: str) -> tuple[str, bool]:
    """`text` up to a formula that never closes, and whether there was one."""
    outside = SPAN.sub(lambda span: " " * len(span.group()), text)
    for opening in OPENING.finditer(outside):
        if not opening.group().endswith("{") or (
            notation.closing_brace(text, opening.end()) < 0 and opening.group() != r"\begin{"
        ):
            return text[: opening.start()], True
    return text, False


def looped(text: str) -> bool:
    """Whether `text` ends in the same words over and over."""
    tail = text[-LOOP_TAIL:]
    for period in range(1, LOOP_TAIL // LOOPS + 1):
        times = max(LOOPS, -(-SHORTEST_LOOP // period))
        if period * times <= len(tail) and tail[-period * times :] == tail[-period:] * times:
            return True
    return False


LOOP_TAIL, LOOPS, SHORTEST_LOOP = 1200, 4, 60  # characters; repetitions; characters


HASH = re.compile(r"####[ \t]*([^\n#]*)")
HEADING = re.compile(r"(?:\d{1,2}[.)]\s+)?\**[A-Za-z]{3,}")


def find_hashes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every `#### answer` that holds no box and is not a heading."""
    found = []
    other_end = len(HASH.sub(lambda line: " " * len(line.group()), text).rstrip())  # where all other text ends
    for line in HASH.finditer(text):
        content = line.group(1).strip(" \t*_`").rstrip(". *_`")
        if phrases := list(PHRASE.finditer(content)):  # "Final Answer: 18" says 18
            content = content[phrases[-1].end() :] or content
        if content and not BOX.search(content) and not (HEADING.match(content) and line.end() < other_end):
            found.append((line.start(), line.end(), content))
    return found


PHRASE = re.compile(
    r"(?:\b(?:final|correct)?\s*(?:answers?|(?:correct|right|best)\s+(?:option|choice)s?)\b(?:[^.\n:=]{0,60}?\b(?:is|are|be|becomes|equals)\b|[\s*]{0,8}[:=])"
    r"|\u7b54\u6848(?:\u5e94?[\u662f\u4e3a]|[\s*]{0,8}[:\uff1a])|(?:(?:\u6545|\u5e94(?<!\u4e0d\u5e94)|\u7b54\u6848|\u6240\u4ee5)\u9009\u62e9?|\u6b63\u786e\u7684?\u9009\u9879[\u662f\u4e3a])\s?[:\uff1a]?(?=\s*\(?[A-K])"
    r"|\u9009(?<!\u4e0d\u9009)(?<!\u4e0d\u80fd\u9009)\u62e9?\s?:?(?=\s*\(?[A-K]{1,5}\)?[\s.!*]*\Z)"
    r"|\b(?:option|choice)\s+(?=\(?[A-K]\)?\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|one|choice|option))?[\s.!*]*\Z)"
    r"|^[ \t]{0,8}\**A[ \t]?:|^(?:#{1,6}[ \t]{0,8}|\*\*)(?:Final )?Answer\**[ \t]*$)[\s:*_]*",
    re.IGNORECASE | re.MULTILINE,
)
ANSWERED = re.compile(rf"\\boxed|####|{PHRASE.pattern}", PHRASE.flags)
SENTENCE_END = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:[A-Z#*-]|\d+\.\s))|[.!](?=\s|$)|(?<=\?)")
ABBREVIATED = re.compile(
    r"(?:\b(?:approx|nos?|st|dr|mrs?|ms|vs|figs?|eqs?|cf|ca|resp|jr|sr)|\b(?:[a-z]\.)+[a-z]|\b(?:[A-Z]\.)+[A-Z])\Z",
    re.IGNORECASE,
)
LOWER = re.compile(r"\.\s+[a-z(]")
UNITS = re.compile(r"\b(?:in|ft|hrs?|mins?|secs?|sq|cu|lbs?|oz|yds?|gal|mi)\Z")


def sentences(text: str) -> list[str]:
    """`text` in sentences. None ends inside a formula, or at the full stop of an abbreviation."""
    spans = [span.span() for span in SPAN.finditer(text)]
    found, start = [], 0
    for end in SENTENCE_END.finditer(text):
        while spans and spans[0][1] <= end.start():
            spans.pop(0)
        if spans and spans[0][0] < end.start():
            continue
        before = text[max(0, end.start() - 12) : end.start()]
        if end.group() == "." and (
            ABBREVIATED.search(before) or (UNITS.search(before) and LOWER.match(text, end.start()))
        ):
            continue
        found.append(text[start : end.start()])
        start = end.end()
    return [*found, text[start:]]


PROSE = re.compile(r"(?<![\\A-Za-z{])(?!sqrt|frac|sin|cos|tan|log|exp|times|text|infty|cup|cap)[A-Za-z]{3,}")


TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


def tagged_answer(text: str) -> Answer | None:
    """What the last `<answer>...</answer>` says."""
    for opening, closing in reversed(list(pairwise(TAG.finditer(text)))):
        said = text[opening.end() : closing.start()].strip("*_ \n")
        if said and not opening.group(1) and closing.group(1):
            return replace(last_phrase(said, False) or Answer(spoken_parts(said)), where="tag")
    return None


def revised_answer(marked: Answer, rest: str) -> Answer:
    """The number that a "final answer is" after a marker gives when it is another than the marked one."""
    for match in reversed([m for m in PHRASE.finditer(rest) if "final" in m.group().lower()]):
        said = sentences(rest[match.end() : match.end() + 1000])[0]
        if value := VALUE.match(said):
            before, after = notation.read_number(marked.text), notation.read_number(matched_text(value))
            differ = before is not None and after is not None and not notation.equal_numbers(before, after)
            return Answer((matched_text(value),), "phrase") if differ else marked
    return marked


def last_phrase(text: str, cut: bool) -> Answer | None:
    """What the last "answer is" says: the value it starts with, else the last value of its sentence, else its words.

    One that is supposed, or about something else ("the square of the answer is"), does not count.
    Nothing when it was about to be said where the text was cut off."""
    elsewhere_last = False
    for match in reversed(list(PHRASE.finditer(text))):
        after = text[match.end() : match.end() + 1000]
        bold, closed, _ = after.partition("**")
        first, *rest = (bold, "") if match.group().endswith("**") and closed and "\n" not in bold else sentences(after)
        said = first.strip("*_ \n")
        if (cut and not rest) or NEGATION.search(match.group()):
            return Answer()
        if claims.is_elsewhere(text[: match.start()]):
            elsewhere_last = elsewhere_last or not "".join(rest).strip()
            continue
        if said and not said.endswith("?"):
            return Answer(spoken_parts(said), "phrase")
    return Answer() if elsewhere_last else None


CHOICE = re.compile(r"\(?[A-K](?:[).:]|\s*$|\s+(?:because|since|as)\b)")


def spoken_parts(said: str) -> tuple[str, ...]:
    said = NAMED_CHOICE.sub("", said, count=1)
    found = list(VALUE.finditer(said))
    if not found or CHOICE.match(said):
        return (said,)  # an expression or a word
    rest = said[found[0].end() :]
    changed = found[0].start() == 0 and claims.CHANGED.match(rest)
    is_case = claims.is_one_case(rest, (said[other.end() :] for other in found[1:]))
    if changed or is_case or claims.is_disclaimed(said[: found[0].start()], rest):
        return (said,)  # no value: "not 5", "half of 5", "5 more than 6"
    if found[0].start() == 0 and found[0]["number"] and MEASURE.fullmatch(rest) and not CHOSEN_FROM.search(rest):
        return (said,)
    beside = said[: found[0].start()] + rest
    if not PROSE.search(SPOKEN.sub("", said)) and (len(found) > 1 or not MARKUP.fullmatch(beside)):
        return (said,)
    return joined_values(said, found, forward=found[0].start() == 0 and "=" not in said)


SPOKEN = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}")  # words of a formula
MARKUP = re.compile(r"[\s*_\"'`.,;:]*")
NAMED_CHOICE = re.compile(r"\A(?:option|choice)s?\s+(?:\*\*)?(?=\(?[A-K])", re.IGNORECASE)
NEGATION = re.compile(r"\bcannot\b|\bnot\b|n't\b", re.IGNORECASE)
MEASURE = re.compile(r"\s*[^\W\d_]+\.?(?:\s[^\W\d_]+){0,2}")  # words after a value
CHOSEN_FROM = re.compile(r"\b(?:or|and|because|since|so|as|which|if|not)\b", re.IGNORECASE)


FRACTION = r"\\[dtc]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*(?:\d|\{[^{}]*\}))"
PLAIN = (
    r"(?:\d+ \d{1,3}(?=/)|(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+(?:,\d+){2,}|\d+)?(?:[.,]\d+)?)(?<=\d)"
    r"(?:\s?/\s?\d+(?![\d.]\d)|[eE][-+]?\d{1,3}(?![\w.]*\w)|\s?(?:\\times|\\cdot|\u00d7|\u00b7|[x*])\s?10\s?(?:\^\s?\{?\s?-?\d+\s?\}?|[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))?"
    r"\s?(?:\\?%|(?:percent|pct|thousand|million|billion|trillion)\b)?"
)
VALUE = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|(?<![\\\d])\$(?P<inline>(?:\\.|[^$\n\\])+)\$(?!\d)|\\\((?P<round>(?:(?!\\[()]).)+)\\\)"
    r"|\\\[(?P<square>(?:(?!\\[\[\]]).)+)\\\]|(?<![A-Za-z0-9_.,{^])(?<!\d:)(?P<number>(?:[-\u2212+]\s?|\u2013|\s)?\\?[$€£¥₹¢]?\s?[-\u2212]?"
    rf"(?:{FRACTION}|{PLAIN}))(?!:\d|\d|(?:st|nd|rd|th)\b)",
    re.DOTALL,
)
# What joins two values, and what names the second: "3 or 7", "x = 3 or x = 7", "it is 3 or it is 7".
JOINT = re.compile(
    r"[\s$]*(?P<joint>,|;|\||(?:,\s*)?\b(?:or|and)\b|\bor (?:maybe|perhaps|even)\b"
    r"|(?:,\s*)?(?:\u6216\u8005?|\u548c|\u4e0e|\u4ee5?\u53ca))[\s$]*"
    r"(?:(?:(?P<letter>[a-z](?:_\{?\w+\}?)?)\s*(?:=|is\b)|(?:it|that)\s+(?:is|equals|(?:could|may|might)(?:\s+also)?\s+be)\b|\u662f)[\s$]*)?",
    re.IGNORECASE,
)


RAISED = re.compile(rf"{SPAN.pattern}|(?P<raised>(?<!10)[_^]\s*(?:\{{[^{{}}]*\}}|\([^()]*\)|-?\w+))", SPAN.flags)
OPERATOR = re.compile(
    r"[<>\u2264\u2265]=?\s*\Z|\d\s*[-\u2013]\s*\Z"
    r"|[\w)}\]]\s*(?:(?<!\*)\*|[/\u00d7\u00f7+]|(?<=\d )x|\\(?:times|cdot|div))\s*\Z"
    r"|[\d%)}$]\s*(?:plus|times|multiplied by|divided by|(?:percent )?of)\s*\Z"
)
# How a text ends: with a mark; with a result, and a word or two (its unit); or it is a value and nothing else.
ENDED = re.compile(
    r"(?:[.!?)\]}|`'\"\u2019\u201d>]|\*\*|(?<=\S)[$*])\s*\Z"
    r"|[=:][^=:\n\d]{0,12}\d[\d.,]*\s?%?(?:\s[^\W\d_]+){0,3}\s*\Z"
    r"|\b(?:is|are|was|be|gives?|get|equals?)\s[^=\n\d]{0,12}\d[\d.,]*\s?%?\s*\Z"
    r"|\A(?:\w+\s){0,2}[^\w\n]{0,3}\d[\d.,/]*\s?%?\Z|\A[^\w\n]{0,3}\d[\d.,/]*(?:\s[^\W\d_]+){0,3}\Z"
)


def last_value(text: str) -> Answer | None:
    """The last value, or the list it ends, of the last sentence that holds one and is not a question.

    None where the text breaks off in the middle of a sentence or in a loop, or where the value is an operand."""
    text = text.strip()
    if not ENDED.search(text[-200:]) or looped(text):
        return None
    for sentence in reversed(sentences(text)):
        level = RAISED.sub(blank_raised, sentence)
        found = list(VALUE.finditer(level))
        if found and not sentence.rstrip().endswith("?"):
            value, after = found[-1], level[found[-1].end() :]
            is_case = claims.is_one_case(after, (level[other.end() :] for other in found[:-1]))
            if is_operand(level, value) or is_case or claims.is_disclaimed(level[: value.start()], after):
                return None
            return Answer(joined_values(level, found, forward=False), "last")
    return None


def blank_raised(match: re.Match[str]) -> str:
    """Subscripts and exponents outside of formulas as blanks of the same length."""
    return match.group() if match["raised"] is None else match.group()[0] + "_" * (len(match.group()) - 1)


def is_operand(sentence: str, value: re.Match[str]) -> bool:
    """Whether a number outside of a formula is the last operand of something that was not worked out."""
    if value["number"] is None:
        return False
    before, number = sentence[: value.start("number")].rstrip(), value["number"].lstrip()
    sign = number[:1] in "-+\u2212\u2013"
    joined = before[-1:].isdigit() or (number[1:2] == " " and before[-1:].isalnum())  # 13 - 4, y + 5
    return bool(OPERATOR.search(before[-20:])) or (sign and joined)


def joined_values(sentence: str, found: list[re.Match[str]], *, forward: bool) -> tuple[str, ...]:
    """The first or last value with the neighbours that a comma, "or" and the like join to it."""
    if not forward:
        found = found[::-1]
    run = [found[0]]
    for match in found[1:]:
        if not are_joined(sentence, *((run[-1], match) if forward else (match, run[-1]))):
            break
        run.append(match)
    return distinct_parts(matched_text(m) for m in (run if forward else run[::-1]))


BESIDE = 40  # characters before a value in which its name stands


def are_joined(sentence: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether two values are parts of one answer. Of "x = 3 and y = 7" or "3x = 21 or x = 7" each is its own."""
    gap = JOINT.fullmatch(sentence[left.end() : right.start()])
    if gap is None or gap["letter"] is None:
        return gap is not None
    name = r"[a-z](?:_\{?\w+\}?)?" if gap["joint"].casefold().endswith("or") else re.escape(gap["letter"])
    named = re.compile(rf"(?:\A|[a-z]\s+|[,;:$(]\s*){name}\s*(?:=|is)[\s$]*\Z", re.IGNORECASE)
    return named.search(sentence[: left.start()][-BESIDE:]) is not None


def matched_text(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def distinct_parts(parts: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(part).strip() for part in parts))  # type: ignore[attr-defined]
