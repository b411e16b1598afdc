"""The marks that an answer stands in: which of them a text holds, and how a solution ends in one.

Imports nothing, since `check` compares with these the prompts and answers of files that nobody built here.
"""

MARKS = {"hashes": "####", "boxed": "\\boxed", "tag": "<answer>"}
# Before and after the gold, where rendering writes it below a solution.
ENDINGS = {
    "hashes": ("\n#### ", ""),
    "boxed": ("\nThe answer is $\\boxed{", "}$."),
    "tag": ("\n<answer>", "</answer>"),
}


def find_marks(text: str) -> tuple[str, ...]:
    """The names of the marks that stand in a text."""
    return tuple(name for name, mark in MARKS.items() if mark in text)


def describe_marks(names: tuple[str, ...]) -> str:
    """E.g. "#### or \\boxed"."""
    return " or ".join(MARKS[name] for name in names)
