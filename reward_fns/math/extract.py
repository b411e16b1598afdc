r"""Find the final answer in a completion. The rule, in order:

1. Only what follows the last `</think>` counts (a thought that never ends holds no answer), up to the first
   end-of-turn marker or, once an answer was given, a further "Question:" that the model makes up for itself.
2. The last `\boxed{...}` or `#### ...` line, whichever stands later. Those with nothing but connectives between them
   (`\boxed{1} or \boxed{2}`) are one answer in several parts, never a choice of the lucky one. More than MAX_BOXES
   different boxes are not an answer. A `####` that opens a section ("#### Step 2: Money" with text below) is a heading.
3. In flexible mode a "final answer is" after that supersedes it when both are numbers and they differ.
4. Without a marker, in flexible mode only: the last `<answer>...</answer>`; else what follows the last "answer is",
   "Answer:" or "A:"; else the last value (a formula in dollars, or a number) of the last sentence that holds one and is
   not a question. Values joined by commas, "or" and the like are parts of one answer.

An answer in several parts equals a gold of as many parts, and no single number.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from reward_fns.math import notation
from reward_fns.text import after_thought, first_turn

MAX_BOXES = 4
LONGEST = 200_000  # characters at the end of a completion that are read at all
MAX_RUN = 20  # boxes side by side; more change nothing
TAIL = 20_000  # characters at the end of a completion in which a phrase or a bare value is searched
NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}(?:\*\*|#+ )?(?:Question|Q|Problem|Human|User|Instruction)(?:\s*\d*)?\s*:")
ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator marks


@dataclass(frozen=True)
class Answer:
    """The final answer as written. `where` is one of boxed, hash, phrase, last, or "" when there is none;
    `parts` has more than one entry when several answers stand side by side; a box or #### ends at `end`."""

    parts: tuple[str, ...] = ()
    where: str = ""
    end: int = 0

    @property
    def text(self) -> str:
        return ", ".join(self.parts)

    @property
    def strict(self) -> bool:
        return self.where in ("boxed", "hash")


def final_answer(response: str, mode: str = "flexible") -> Answer:
    """The final answer of `response`. `mode` is "strict" (a box or ####) or "flexible". Linear in the length."""
    text = first_turn(after_thought(response)[-LONGEST:])
    # After an answer a model may continue with a question that it makes up.
    answered = ANSWERED.search(text)
    if answered and (question := NEXT_QUESTION.search(text, answered.end())):
        text = text[: question.start()]
    answer = last_marked(text)
    if mode == "flexible":
        tail = ANNOTATION.sub("", drop_unclosed_box(text[answer.end :] if answer else text)[-TAIL:])
        if answer:
            return revised_answer(answer, tail)
        answer = tagged_answer(tail) or last_phrase(tail) or last_value(tail)
    return answer or Answer()


BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=[\w$\\-]))")
BARE = re.compile(r"[^\s$.,;]*")
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
WORDS = (
    "or and maybe perhaps possibly also either alternatively else could might be may it is answer another option the "
    "quad qquad text mathrm textbf if not then even just in case other to so both final possible well as number for "
    "part a b c d"
)
CONNECTIVE = re.compile(
    rf"(?:[\s,;:.$&\\()\[\]{{}}*/|#!?0-9-]|\b(?:{'|'.join(WORDS.split())})\b|\b[a-z](?:_\{{?\d+\}}?)?\s*=)*"
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
            end = closing_brace(text, match.end())
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


def drop_unclosed_box(text: str) -> str:
    """`text` up to a box that is never closed: what stands in it was cut off and may be half a number."""
    for match in BOX.finditer(text):
        if match.group(1) and closing_brace(text, match.end()) < 0:
            return text[: match.start()]
    return text


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one before `start`, or -1."""
    depth = 1
    for token in BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.start()
    return -1


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
    r"(?:\b(?:final|correct)?\s*answer\b(?:[^.\n:=]{0,60}?\b(?:is|are|be|becomes|equals)\b|[\s*]{0,8}[:=])"
    r"|^[ \t]{0,8}\**A[ \t]?:|^(?:#{1,6}[ \t]{0,8}|\*\*)(?:Final )?Answer\**[ \t]*$)[\s:*_]*",
    re.IGNORECASE | re.MULTILINE,
)
ANSWERED = re.compile(rf"\\boxed|####|{PHRASE.pattern}", PHRASE.flags)
SENTENCE_END = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:[A-Z#*-]|\d+\.\s))|[.!](?=\s|$)|(?<=\?)")
PROSE = re.compile(r"(?<![\\A-Za-z{])(?!sqrt|frac|sin|cos|tan|log|exp|times|text|infty|cup|cap)[A-Za-z]{3,}")


TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


def tagged_answer(text: str) -> Answer | None:
    """What the last `<answer>...</answer>` says."""
    for opening, closing in reversed(list(pairwise(TAG.finditer(text)))):
        said = text[opening.end() : closing.start()].strip("*_ \n")
        if said and not opening.group(1) and closing.group(1):
            return last_phrase(said) or Answer(spoken_parts(said), "phrase")
    return None


def revised_answer(marked: Answer, rest: str) -> Answer:
    """The number that a "final answer is" after a marker gives when it is another than the marked one."""
    for match in reversed([m for m in PHRASE.finditer(rest) if "final" in m.group().lower()]):
        said = SENTENCE_END.split(rest[match.end() : match.end() + 1000], maxsplit=1)[0]
        if value := VALUE.match(said):
            before, after = notation.read_number(marked.text), notation.read_number(matched_text(value))
            differ = before is not None and after is not None and not notation.equal_numbers(before, after)
            return Answer((matched_text(value),), "phrase") if differ else marked
    return marked


def last_phrase(text: str) -> Answer | None:
    """What the last "answer is" says: the value it starts with, else the last value of its sentence, else its words."""
    for match in reversed(list(PHRASE.finditer(text))):
        said = SENTENCE_END.split(text[match.end() : match.end() + 1000], maxsplit=1)[0].strip("*_ \n")
        if said and not said.endswith("?"):
            return Answer(spoken_parts(said), "phrase")
    return None


CHOICE = re.compile(r"\(?[A-J](?:[).:]|\s*$)")


def spoken_parts(said: str) -> tuple[str, ...]:
    found = list(VALUE.finditer(said))
    if not found or CHOICE.match(said):
        return (said,)  # an expression or a word
    beside = said[: found[0].start()] + said[found[0].end() :]
    if not PROSE.search(SPOKEN.sub("", said)) and (len(found) > 1 or not MARKUP.fullmatch(beside)):
        return (said,)
    return joined_values(said, found, forward=found[0].start() == 0 and "=" not in said)


SPOKEN = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}")  # words of a formula
MARKUP = re.compile(r"[\s*_\"'`.,;:!]*")


FRACTION = r"\\[dtc]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*(?:\d|\{[^{}]*\}))"
PLAIN = (
    r"(?:\d+ \d{1,3}(?=/)|(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+(?:,\d+){2,}|\d+)?(?:[.,]\d+)?)(?<=\d)"
    r"(?:\s?/\s?\d+(?![\d.]\d))?\s?(?:\\?%|(?:percent|pct|thousand|million|billion)\b)?"
)
VALUE = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|(?<![\\\d])\$(?P<inline>(?:\\.|[^$\n\\])+)\$(?!\d)|\\\((?P<round>(?:(?!\\[()]).)+)\\\)"
    r"|\\\[(?P<square>(?:(?!\\[\[\]]).)+)\\\]|(?<![\w.,{^])(?<!\d:)(?P<number>(?:[-\u2212+]\s?|\u2013|\s)?\\?[$€£¥]?\s?[-\u2212]?"
    rf"(?:{FRACTION}|{PLAIN}))(?!:\d|\d|(?:st|nd|rd|th)\b)",
    re.DOTALL,
)
JOINT = re.compile(
    r"[\s$]*(?:,|;|\bor\b|\band\b|\||,\s*or\b|,\s*and\b|\bor (?:maybe|perhaps|even)\b)[\s$]*", re.IGNORECASE
)


def last_value(text: str) -> Answer | None:
    """The last value, or the list it ends, of the last sentence that holds one and is not a question."""
    for sentence in reversed(SENTENCE_END.split(text.strip())):
        found = list(VALUE.finditer(sentence))
        if found and not sentence.rstrip().endswith("?"):
            return Answer(joined_values(sentence, found, forward=False), "last")
    return None


def joined_values(sentence: str, found: list[re.Match[str]], *, forward: bool) -> tuple[str, ...]:
    """The first or last value with the neighbours that a comma, "or" and the like join to it."""
    if not forward:
        found = found[::-1]
    run = [found[0]]
    for match in found[1:]:
        left, right = (run[-1], match) if forward else (match, run[-1])
        if not JOINT.fullmatch(sentence[left.end() : right.start()]):
            break
        run.append(match)
    return distinct_parts(matched_text(m) for m in (run if forward else run[::-1]))


def matched_text(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def distinct_parts(parts: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(part).strip() for part in parts))  # type: ignore[attr-defined]
