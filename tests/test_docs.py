"""Every command that the documents and recipes show is one that its verb takes, and is run: here where that is quick, else by
the test that `documented` names. Optional words in brackets are left out.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import compose, overrides, preflight
from posttrain_verl.preflight import config_form
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verbs import VERBS as declarations
from posttrain_verl.verl.renamed import iterate_leaves

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "report")]

import made_runs  # noqa: E402
import made_texts  # noqa: E402
from documented import WAYS, Elsewhere, Here, Way  # noqa: E402
from verbs import VERBS, run  # noqa: E402

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*.yaml")]
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


def command_of(verb: str, text: str) -> list[str]:
    """The verb and all its words, with examples in the place of names."""
    whole = re.sub(r"<[^>]*>|\.\.\.", "EXAMPLE", re.sub(r"\[[^\]]*\]", "", text))
    parts = [word.partition("=") for word in shlex.split(whole)]
    return [verb, *(f"{key}{equals}{EXAMPLES.get(value, value)}" for key, equals, value in parts)]


def ways_of(name: str) -> list[Way]:
    """How a command is tested; there must be one way."""
    return [way for pattern, way in WAYS.items() if re.fullmatch(pattern, name)]


def composes(words: list[str]) -> None:
    """What `launch` and `check` do first; a run or sweep that goes on has nothing to compose."""
    if any(word.split("=")[0] in ("run", "posttrain.sweep") or word.startswith("recipe=subtract_") for word in words):
        return  # the recipes of docs/first_day.md lie on the page
    plain = [word for word in words if not word.startswith(("address=", "hydra"))]
    asked = overrides.read_overrides(plain, sweep=True)
    if not any("," in word for word in plain):
        assert config_form.check_keys(compose.compose(asked.rewritten)) == []


@pytest.mark.parametrize(("verb", "text"), commands(), ids=[f"{verb} {text}" for verb, text in commands()])
def test_a_shown_command_is_one_that_the_verb_takes(verb, text, tmp_path, monkeypatch):
    assert verb in VERBS
    (tmp_path / "my_reward.py").touch()
    monkeypatch.chdir(tmp_path)
    words = words_of(text)
    if words and verb in ("launch", "check"):
        composes(words)
    elif words and verb in ("pipeline", "export", "report", "evaluate", "prep"):
        read(declarations[verb], words)


COMMANDS = {" ".join(command): command for command in (command_of(*each) for each in commands())}
RUN_HERE = {name: way for name in COMMANDS for way in ways_of(name) if isinstance(way, Here)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with two runs, evaluations and completions as the documents name them."""
    folder = tmp_path_factory.mktemp("place")
    for run_id in ("20260731-090000", "20260801-120000"):
        made = made_runs.grpo(folder / "runs" / "math_grpo" / run_id, steps=4, prompts=1)
        (made / "log.txt").write_text("the last line\n")
    for number, name in enumerate(("A", "B", "base.json", "trained.json", "runs/eval/smollm2_135m-1/base-embedded.json",
                                   "runs/demo_grpo/1/eval/grpo-embedded.json")):  # fmt: skip
        made_texts.evaluation(folder / name, ("base", "grpo")[number % 2], (0.3, 0.5)[number % 2], seed=number)
    rows = [{"data_source": "openai/gsm8k", "response": f"#### {n}", "ground_truth": "3"} for n in range(5)]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions.parquet")
    return folder


@pytest.mark.parametrize("name", sorted(RUN_HERE, key=lambda name: (name.startswith("inspect"), name)))
def test_a_command_is_run(name, place, monkeypatch, capsys):
    """In this process, but for `serve`, which ends with Ctrl-C; `inspect` comes after `prep`, whose data it looks at."""
    way, (verb, *words) = RUN_HERE[name], COMMANDS[name]
    if name.startswith("check") and "hardware" not in name and shutil.which("nvidia-smi"):
        pytest.skip("this machine has GPUs, for which the recipe stays what it is")
    if verb == "inspect" and not (place / "data").is_dir():
        run("prep", ["mix=embedded"], place, monkeypatch)
    code, printed = serve(place) if verb == "serve" else (run(verb, words, place, monkeypatch), capsys.readouterr())
    said = " ".join(re.sub(r"\s+", " ", part) for part in printed)
    assert (code, way.says in said) == (way.code, True), said[-3000:]


def serve(folder: Path) -> tuple[int, tuple[str, str]]:
    """Exit code and output of `serve`, ended once its page was read."""
    command = [sys.executable, "-m", "posttrain_verl.serve"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            with urllib.request.urlopen(line.split()[3], timeout=30) as page:
                assert "math_grpo/20260801-120000" in page.read().decode()
        finally:
            process.send_signal(signal.SIGINT)
        return process.wait(timeout=30), (line, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_tested_in_one_way_and_the_test_that_is_named_is_there(name):
    ways = ways_of(name)
    assert len(ways) == 1, f"tests/documented.py must have one entry for it, and has {len(ways)}"
    if isinstance(way := ways[0], Elsewhere):
        file, _, test = way.test.partition("::")
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_way_is_that_of_a_command():
    unused = [pattern for pattern in WAYS if not any(re.fullmatch(pattern, name) for name in COMMANDS)]
    assert not unused, "no document shows these any more"


def test_programs_and_tests_that_documents_name_are_there():
    named = {
        file
        for page in PAGES
        for file in re.findall(r"\b(?:benchmarks|tests)/[\w/]+\.[\w.]*\w", page.read_text("utf-8"))
    }
    assert len(named) > 15
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []


def test_there_are_commands():
    assert len(commands()) > 40
    assert {verb for verb, _ in commands()} >= {"launch", "check", "prep", "inspect", "evaluate", "pipeline", "report"}


def test_every_key_of_ours_stands_in_the_page_of_the_words():
    page = (ROOT / "docs/config.md").read_text("utf-8")
    ours = OmegaConf.load(ROOT / "conf/launch.yaml").posttrain
    groups = {"stage", *overrides.OUR_GROUPS}  # set by the trunk, and by recipe=, mix= ...
    keys = [key for key, _ in iterate_leaves(OmegaConf.to_container(ours)) if key.partition(".")[0] not in groups]
    assert "reward.right_at" in keys and [key for key in keys if f"`posttrain.{key}=" not in page] == []


def test_the_recipe_to_copy_is_grpo_and_lacks_nothing_but_its_data(tmp_path, monkeypatch):
    page = (ROOT / "docs/config.md").read_text("utf-8")
    block = re.search(r"```yaml\n(# GRPO on my task.*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text(block[1])
    monkeypatch.chdir(tmp_path)
    composed = compose.compose(["recipe=mine", "hardware=8xh100"])
    assert composed.verl.algorithm.adv_estimator == "grpo"
    problems = blocking(preflight.find_problems(composed))
    assert [problem.what for problem in problems if not problem.what.endswith(".parquet is missing")] == []


def test_links_between_the_documents_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in PAGES if page.suffix == ".md"
        for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8"))
        if not leads_somewhere(page, target)
    ]  # fmt: skip
    assert not broken


def leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    there = page.parent / path if path else page
    return there.exists() and (not anchor or anchor in anchors(there.read_text(encoding="utf-8")))


def anchors(markdown):
    """As GitHub makes them: small letters, spaces as hyphens, no other punctuation."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
