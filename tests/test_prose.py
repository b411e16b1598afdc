"""The prose of the documents: sentences that are read once. Code, headings, front matter and link targets are left out.

Tables are not measured, since their cells are not sentences, but they use the same words as the rest.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.stem != "CHANGELOG")
AVERAGE, LONGEST = 20, 45  # words of a sentence
DOCSTRING_END = re.compile(r"(?<=[.:;?!])\s+(?=[A-Z`\"])")  # of a sentence in a docstring
SHORTEST = 3  # fewer words are a label, which would only make the average look better
UNWANTED = re.compile(r"\b(?:goes on|go on with|(?:is|are) no(?! longer)|census|roster|parcel)\b", re.IGNORECASE)

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2`*$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}\S.*\n?\n?)+")
HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
TABLE = re.compile(r"^ *\|.*$", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
BLOCK = re.compile(r"\n\s*\n|\n(?= *(?:[-*+]|\d+[.)]) )")
BULLET = re.compile(r"\A(?:[-*+]|\d+[.)])\s+")
END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\bet al)(?<!\bDr)([.!?][\"')\]*_]*)\s+")


def without_code(markdown: str) -> str:
    """The text of a page; a piece of code inside a sentence counts as one word."""
    text = FRONT_MATTER.sub("", markdown)
    text = HEADING.sub("\n", FENCED.sub("\n", text))
    return LINK.sub(r"\1", CODE.sub("CODE", INDENTED.sub("\n", text)))


def sentences(markdown: str) -> list[str]:
    """Each sentence on one line. A paragraph and an item of a list end one, too."""
    blocks = BLOCK.split(TABLE.sub("", without_code(markdown)))
    parts = [
        part for block in blocks for part in END.sub(r"\1\n", BULLET.sub("", " ".join(block.split()))).splitlines()
    ]
    return [part for part in parts if len(words(part)) >= SHORTEST]


def words(sentence: str) -> list[str]:
    return [word for word in sentence.split() if re.search(r"\w", word)]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_sentence_is_long(page):
    assert [sentence for sentence in sentences(read(page)) if len(words(sentence)) > LONGEST] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_average_sentence_is_short(page):
    lengths = [len(words(sentence)) for sentence in sentences(read(page))]
    assert lengths, "no sentence was found"
    assert mean(lengths) < AVERAGE


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_words_are_those_of_the_field(page):
    text = " ".join(without_code(read(page)).split())
    assert [text[max(0, found.start() - 40) : found.end() + 20] for found in UNWANTED.finditer(text)] == []


def test_the_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "SKILL.md", "docs/plan.md", "docs/gpu.md"} <= {
        name_of(page) for page in PAGES
    }


@pytest.mark.parametrize(
    ("markdown", "found"),
    [
        ("One is here. Two is here.", ["One is here.", "Two is here."]),
        ("Use a unit, e.g. seconds vs. steps. VeRL 0.9.1 is pinned.",
         ["Use a unit, e.g. seconds vs. steps.", "VeRL 0.9.1 is pinned."]),
        ("It reads config.py and 0.5 of it. torch is not imported.",
         ["It reads config.py and 0.5 of it.", "torch is not imported."]),
        ("See [the plan](docs/a_b.md#x), with `a b. c d` in it.", ["See the plan, with CODE in it."]),
        ("Two things are done:\n- the first one\n  of them\n2. the second one",
         ["Two things are done:", "the first one of them", "the second one"]),
        ("# A heading that is long\n\nText is read.\n\n    code left out\n\n```\nmore code. And more.\n```\n\nThe end comes.",
         ["Text is read.", "The end comes."]),
        ("| a cell of words | another cell |\n|---|---|\n\nYes. Text is read.", ["Text is read."]),
        ("---\nname: a name of a page\n---\n\nText is read (in part.) Then it ends.",
         ["Text is read (in part.)", "Then it ends."]),
    ],
)  # fmt: skip
def test_sentences_are_those_of_the_text(markdown, found):
    assert sentences(markdown) == found


@pytest.mark.parametrize(
    ("text", "unwanted"),
    [("it goes on", 1), ("there are no\nGPUs", 1), ("| is no |", 1), ("it is no longer there", 0), ("`goes on`", 0)],
)
def test_unwanted_words_are_found_in_tables_and_across_lines_but_not_in_code(text, unwanted):
    assert len(UNWANTED.findall(" ".join(without_code(text).split()))) == unwanted


def docstrings() -> Iterator[tuple[str, str]]:
    for package in ("posttrain_verl", "data_prep", "reward_fns"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    name = f"{file.relative_to(ROOT)}:{getattr(node, 'name', 'module')}"
                    for part in re.split(r"\n\s*\n|\n\s{4,}|\n- ", ast.get_docstring(node) or ""):
                        yield name, " ".join(part.split())


def test_docstrings_are_read_once():
    lengths = [(len(sentence.split()), name) for name, part in docstrings() for sentence in DOCSTRING_END.split(part)]
    assert len(lengths) > 1000
    assert mean(length for length, _ in lengths) < AVERAGE
    assert not [name for length, name in lengths if length > LONGEST]
