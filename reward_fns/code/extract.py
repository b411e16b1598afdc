"""Find the program in a completion. By text alone: model output is never parsed or compiled outside the sandbox.

The rule: only what follows the last `</think>` counts. Of the fenced blocks those in another language (shell, output,
text) are left out, and those without a language where others name Python. Of the rest the last one that defines the
wanted function counts (for a program that reads its input: the last one that does), else the last one that defines any,
else the last with a line of code. Before it come the earlier blocks whose functions or imports it uses and does not
hold itself. A fence that is never closed counts up to the end of the text. Without a fence the program starts at the
first line that opens like code and ends where prose begins.
"""

import re
from dataclasses import dataclass, replace

from reward_fns.text import after_thought, first_turn

MAX_PROGRAM = 200_000  # characters; what is longer is not an answer to an exercise
FENCE = re.compile(
    r"(?:^(?P<indent>[ \t]*)(?P<fence>`{3,}+|~{3,}+)|(?<=\S)[ \t]+(?P<inline>```)(?=py))"
    r"[ \t]*\{?\.?(?P<label>[\w+#.-]*+)[^\n]*+\n"
    r"(?P<code>.*?)(?:(?:^(?:(?P=indent)|) {0,3}|(?<=[^\s`~]))(?:(?P=fence)[`~]*+|(?P=inline))(?P<closed>[ \t]*$)|\Z)",
    re.MULTILINE | re.DOTALL,
)
PYTHON = re.compile(r"|py(?:thon)?[\d.]*|pycon|code|solution")
ALIASES = {"c++": "cpp", "golang": "go", "js": "javascript", "node": "nodejs", "rs": "rust", "ts": "typescript"}
CODE_LINE = re.compile(
    r"^(?:import |from \w[\w.]* import|def |class |async def |@\w|if __name__|[A-Za-z_]\w*\s*=[^=]|print\(|for .*:$)"
)
# A line at the margin that no Python has: two words side by side, a word with a full stop, a mark of Markdown.
PROSE_LINE = re.compile(
    r"^</|^[A-Z][a-z']*:(?: [^\s=]+){2,}\s*$"
    r"|^(?![#@\"'])(?:[A-Z][a-z']*|[a-z]+,?)(?: [\w',()`-]+){3,}[.:!?]?\s*$"
    r"|^[A-Z][a-z']* (?!(?:and|else|for|if|in|is|not|or)\b)[a-z]|^[A-Z][a-z']*(?: [\w',()`-]+)*[.!?:]\s*$"
    r"|^(?:[-*+\u2022]|\d+[.)]) +(?:[A-Z][a-z']* [a-z]|`|\*\*\S)|^\*\*\S[^*]*(?<=\S)\*\*|^[`!?$]"
    r"|^(?![#@\"'])[^#\"']*[\u3002\uff0c\uff1a\uff01]"
)
DEFINES = re.compile(r"^[ \t]*(?:async )?(?:def|class) ", re.MULTILINE)
READS = re.compile(r"\b(?:input\(|stdin\b|open\(0)")
CODE = re.compile(CODE_LINE.pattern, re.MULTILINE)
BINDS = re.compile(
    r"^(?:async )?(?:def|class)[ \t]+(\w+)|^import[ \t]+(?:[\w.]+[ \t]+as[ \t]+)?(\w+)"
    r"|^from[ \t]+[\w.]+[ \t]+import[ \t]+\(?([\w, \t]+)",
    re.MULTILINE,
)
# The marks of MBPP's prompt, at the ends of a line: a program may print them.
BEGIN = re.compile(r"^[ \t]*\[BEGIN\]", re.MULTILINE)
DONE = re.compile(r"^[ \t]*\[DONE\]|\[DONE\][ \t]*$", re.MULTILINE)
FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)
USES = re.compile(r"(?<![\w.])(\w+)[ \t]*[.(]")


@dataclass(frozen=True)
class Source:
    """The program; `fenced` is true when it stood in a complete fenced block, which named the language `label`."""

    text: str = ""
    fenced: bool = False
    label: str = ""


def extract_program(response: str, entry_point: str = "", language: str = "python") -> Source:
    text = first_turn(after_thought(response)).replace("\r\n", "\n").replace("\ufeff", "")
    found = []
    for block in fenced_blocks(text):
        label = ALIASES.get(block.label, block.label)
        spoken = PYTHON.fullmatch(label) is not None if language == "python" else label in ("", language)
        if spoken and block.text.strip():
            found.append(block)
    chosen = choose_block(found, entry_point)
    if chosen and language == "python":
        chosen = with_what_it_uses(chosen, found[: found.index(chosen)])
    source = chosen or Source(unfenced_code(text))
    return source if len(source.text) <= MAX_PROGRAM else Source()


def fenced_blocks(text: str, *, nested: bool = False) -> list[Source]:
    """Every fenced block, those inside a block of Markdown in its place."""
    found = []
    for match in FENCE.finditer(text):
        code, label = match["code"], match["label"].lower()
        wraps = not label and code.lstrip().startswith(("```", "~~~"))  # a longer fence around another
        if (wraps or label in ("markdown", "md")) and not nested:
            found += fenced_blocks(code, nested=True)
            continue
        if match["indent"]:  # a block inside a list
            code = re.sub(f"^{match['indent']}", "", code, flags=re.MULTILINE)
        found.append(Source(code, match["closed"] is not None and code != "", label))
    return found


def with_what_it_uses(chosen: Source, earlier: list[Source]) -> Source:
    """`chosen` behind the earlier blocks that bind names which it calls or takes attributes of and does not bind."""
    text, has, uses = chosen.text, bound_names(chosen.text), set(USES.findall(chosen.text))
    for block in reversed(earlier):
        binds = bound_names(block.text)
        if (binds - has) & uses:
            text = f"{block.text.rstrip()}\n\n{text}"
            has |= binds
            uses |= set(USES.findall(block.text))
    return replace(chosen, text=text)


def bound_names(code: str) -> set[str]:
    """The functions, classes and modules that a block binds at its top level."""
    return {name for groups in BINDS.findall(code) for name in re.findall(r"\w+", " ".join(groups))} - {"as"}


def choose_block(found: list[Source], entry_point: str) -> Source | None:
    """The last block that defines the entry point (without one: that reads input), else that defines anything, else
    that holds code, else the last."""
    if not found:
        return None
    wanted = re.compile(rf"^[ \t]*(?:async )?(?:def|class)[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
    labelled = [block for block in found if block.label] or found
    first = (wanted, found) if entry_point else (READS, labelled)
    for pattern, among in (first, (DEFINES, labelled), (CODE, labelled)):
        fitting = [block for block in among if pattern.search(block.text)]
        if fitting:
            return fitting[-1]
    return labelled[-1]


def unfenced_code(text: str) -> str:
    """Code that stands in prose without a fence: from the first line of code to the first line of prose after it."""
    lines = DONE.split(BEGIN.sub("", text))[0].splitlines()
    start = next((i for i, line in enumerate(lines) if CODE_LINE.match(line)), None)
    if start is None:
        return text if text.lstrip("\n")[:1] in (" ", "\t") else ""  # the bare body of a function
    body, quoted = [], False  # whether the line stands in a triple-quoted string
    for line in lines[start:]:
        if not quoted and PROSE_LINE.match(line) and not CODE_LINE.match(line):
            break
        quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
        body.append(line)
    return "\n".join(body) + "\n"


def put_before(code: str, source: str) -> str:
    """`source` behind `code`. What it imports from `__future__` stays at the top."""
    futures = "".join(f"{line}\n" for line in FUTURE.findall(source))
    return f"{futures}{code}\n{FUTURE.sub('', source)}"
