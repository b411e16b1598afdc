"""Find the program in a completion. By text alone: model output is never parsed or compiled outside the sandbox.

The rule: only what follows the last `</think>` counts. Of the fenced blocks those in another language (shell, output,
text) are left out; of the rest the last one that defines the wanted function counts, else the last one that defines
any, else the last. A fence that is never closed counts up to the end of the text. Without a fence the program starts
at the first line that opens like code and ends where prose begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reward_fns.math.extract import END_OF_TURN, after_thought

MAX_PROGRAM = 200_000  # characters; what is longer is no answer to an exercise
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
PYTHON = frozenset(("", "python", "py", "python3", "python2", "pycon", "code", "solution"))
ALIASES = {"c++": "cpp", "golang": "go", "js": "javascript", "node": "nodejs", "rs": "rust", "ts": "typescript"}
CODE_LINE = re.compile(
    r"^(?:import |from \w[\w.]* import|def |class |async def |@\w|if __name__|[A-Za-z_]\w*\s*=[^=]|print\(|for .*:$)"
)
PROSE_LINE = re.compile(r"^(?![#@\"'])(?:[A-Z][a-z']*|[a-z]+,?)(?: [\w',()`-]+){3,}[.:!?]?\s*$")
DEFINES = re.compile(r"^[ \t]*(?:async )?(?:def|class) ", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """The program; `fenced` is true when it stood in a complete fenced block."""

    text: str = ""
    fenced: bool = False


def program(response: str, entry_point: str = "", language: str = "python") -> Source:
    """The program of a completion; empty when there is none."""
    text = after_thought(response)
    marker = END_OF_TURN.search(text)
    text = text[: marker.start()] if marker and text[: marker.start()].strip() else text
    found = [
        Source(match.group(3), match.group().rstrip().endswith(match.group(1)) and match.group(3) != "")
        for match in FENCE.finditer(text)
        if spoken_in(match.group(2).lower(), language)
    ]
    chosen = choose([source for source in found if source.text.strip()], entry_point) if found else None
    source = chosen or Source(loose(text))
    return source if len(source.text) <= MAX_PROGRAM else Source()


def spoken_in(label: str, language: str) -> bool:
    label = ALIASES.get(label, label)
    return label in PYTHON if language == "python" else label in ("", language)


def choose(blocks: list[Source], entry_point: str) -> Source | None:
    """The last block that defines the entry point, else the last that defines anything, else the last."""
    if not blocks:
        return None
    wanted = re.compile(rf"^[ \t]*(?:async )?(?:def|class)[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
    for pattern in ([wanted] if entry_point else []) + [DEFINES]:
        fitting = [block for block in blocks if pattern.search(block.text)]
        if fitting:
            return fitting[-1]
    return blocks[-1]


def loose(text: str) -> str:
    """Code that stands in prose without a fence: from the first line of code to the first line of prose after it."""
    lines = text.replace("[BEGIN]", "").split("[DONE]")[0].splitlines()
    start = next((i for i, line in enumerate(lines) if CODE_LINE.match(line)), None)
    if start is None:
        return text if text.lstrip("\n")[:1] in (" ", "\t") else ""  # the bare body of a function
    body = lines[start:]
    return "\n".join(body[: prose_start(body)]) + "\n"


def prose_start(lines: list[str]) -> int:
    """Index of the first line of prose outside a triple-quoted string."""
    quoted = False
    for i, line in enumerate(lines):
        if not quoted and PROSE_LINE.match(line) and not CODE_LINE.match(line):
            return i
        quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return len(lines)
