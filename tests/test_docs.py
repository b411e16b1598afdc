"""Every command that the documents and recipes show is one that its verb takes: verbs exist, and words are read or composed."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain_verl import compose, export, overrides, prep, report
from posttrain_verl.evaluation import job
from posttrain_verl.pipelines import spec
from posttrain_verl.preflight import keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.yaml")]
COMMAND = re.compile(r"python -m posttrain_verl\.([a-z_]+)((?:\\\n|[^`#|\n])*)")
EXAMPLES = {"NAME": "math_grpo", "X": "math_grpo", "mine": "math_grpo", "ID": "math_grpo", "Y": "8xh100"}
STANDS_FOR = re.compile(r"\[[^\]]*\]|\S*\.\.\.\S*|\S*<[^>]*>\S*")


def commands() -> list[tuple[str, str]]:
    """(verb, words) of each command, once."""
    found = {}
    for page in PAGES:
        for verb, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
            found[verb, " ".join(rest.replace("\\\n", " ").split())] = page.name
    return sorted(found)


def words_of(text: str) -> list[str]:
    """The words of a command without what stands for something else, examples in the place of names."""
    words = [word for word in shlex.split(STANDS_FOR.sub("", text)) if "=" in word]
    pairs = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    return [f"{key}={EXAMPLES.get(value, value)}" for key, value in pairs]


def composes(words: list[str]) -> None:
    """What `launch` and `check` do first; a run or sweep that goes on has nothing to compose."""
    if any(word.split("=")[0] in ("run", "posttrain.sweep") for word in words):
        return
    plain = [word for word in words if not word.startswith(("address=", "hydra"))]
    asked = overrides.read(plain, sweep=True)
    if not any("," in word for word in plain):
        assert keys.check(compose.compose(asked.words)) == []


def evaluates(words: list[str]) -> None:
    assert {word.split("=")[0] for word in words} <= set(job.KINDS)


READERS: dict[str, Callable[[list[str]], object]] = {
    "launch": composes, "check": composes, "pipeline": spec.read, "export": export.read_arguments,
    "report": report.read_arguments, "evaluate": evaluates,
    "prep": lambda words: prep.choose([word for word in words if not word.startswith("limit=")]),
}  # fmt: skip


@pytest.mark.parametrize(("verb", "text"), commands(), ids=[f"{verb} {text}" for verb, text in commands()])
def test_a_shown_command_is_one_that_the_verb_takes(verb, text):
    module = importlib.import_module(f"posttrain_verl.{verb}")
    assert 'if __name__ == "__main__":' in Path(str(module.__file__)).read_text(encoding="utf-8"), "no verb"
    words = words_of(text)
    if words and verb in READERS:
        READERS[verb](words)


def test_there_are_commands():
    assert len(commands()) > 40
    assert {verb for verb, _ in commands()} >= {"launch", "check", "prep", "inspect", "evaluate", "pipeline", "report"}


def test_links_between_the_documents_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in PAGES if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]  # fmt: skip
    assert not broken
