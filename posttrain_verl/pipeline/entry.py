"""What a pipeline is: the entries of its list `stages`, its folder, and pipeline.json with the state, time and run of each.

A kind of entry is a class, such as `training.Training`. It declares the keys of the entry and does its work, so that a pipeline
can have entries of another sort without a change elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from data_prep.declaration import OWN_NAME, Declaration, Whole, as_mapping, must, nearest, refuse, wrong
from posttrain_verl import compose as composing
from posttrain_verl import own_reward, paths, verbs
from posttrain_verl.cpu import warm
from posttrain_verl.evaluate.comparison import BASE
from posttrain_verl.evaluate.result import headline, read_result
from posttrain_verl.paths import PIPELINE_FILE, write_atomically
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED
from posttrain_verl.terminal.problem import InputError, WorkFailed
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.renamed import translate_override

RESERVED = (BASE, "prep", "inspect", "choose", "evaluate", "export")  # the first model, and what every pipeline does
TEST_SPLIT = "test"  # in `evals`: the test split of the mix that was trained on

Step = tuple[str, Callable[[], None]]  # the name of a stage in pipeline.json, and what it does
_IS_FREE = must(lambda name: name not in RESERVED, f"write another name than {', '.join(RESERVED)}", "is taken")
_SETS_KEY = must(lambda each: each.startswith("~") or each.find("=") > 0, "write KEY=VALUE", "is {value!r}")
# Of the file: the names that VeRL 0.9.1 has for its keys become those of the installed one.
Override = Annotated[str, AfterValidator(_SETS_KEY), AfterValidator(translate_override)]
EvaluateOverride = Annotated[Override, AfterValidator(lambda each: _check_option(each))]


def _check_option(override: str) -> str:
    if remedy := verbs.Evaluate.misuse(override):
        raise wrong(f"is {override!r}, which is not an option of evaluate", remedy)
    return override


class Entry(Declaration):
    """One entry of the list `stages`. A kind of entry is a subclass; an entry is of the kind whose `KEY` it has."""

    KEY: ClassVar[str]

    given_name: Annotated[str, AfterValidator(_IS_FREE)] | None = Field(
        default=None,
        validation_alias="name",
        pattern=r"^[A-Za-z]\w*$",
        description="write letters, digits and underscores, a letter first",
    )
    overrides: list[Override] = Field(default=[], description="write a list: [KEY=VALUE, ...]")

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        KINDS[cls.KEY] = cls

    @property
    def name(self) -> str:
        """The name of the stage: in pipeline.json, of its model in evaluations, and before its overrides on the command line."""
        return self.given_name or self.usual_name

    @property
    def usual_name(self) -> str:
        """The name where the entry does not give one."""
        return self.KEY

    def misuse(self, override: str) -> str:
        """The remedy for an override that is not for this kind of entry; "" for one that may be."""
        return ""

    def launches(self, it: Pipeline) -> list[Composed]:
        """The launches of the entry, whose data must be there and whose keys are checked before anything runs."""
        return []

    def steps(self, it: Pipeline) -> Iterator[Step]:
        """What the entry does, in order. A step looks for what it leaves before it does anything."""
        raise NotImplementedError

    def hand_over(self, it: Pipeline, received: list[str]) -> list[str]:
        """The overrides that the next entry begins with. `received` are those that this one began with."""
        return received


KINDS: dict[str, type[Entry]] = {}


def _by_kind(entry: Any) -> Any:
    """An entry, read by the class of its kind."""
    if not isinstance(entry, Mapping | None):
        return entry
    found = [kind for key, kind in KINDS.items() if key in as_mapping(entry)]
    if not found:
        raise wrong("does not say what it does", " or ".join(f"write {key}: ..." for key in sorted(KINDS)))
    return found[0].model_validate(entry)


def _named_apart(entries: list[Entry]) -> list[Entry]:
    """Refuse entries that share a name."""
    times: Counter[str] = Counter()
    found = []
    for number, name in enumerate(entry.name for entry in entries):
        times[name] += 1
        if times[name] > 1:
            found.append(((number,), wrong(f"is another stage {name}", f"give it a name: {name}{times[name]}")))
    refuse(found)
    return entries


def _known_questions(name: str) -> str:
    if name not in (known := [TEST_SPLIT, *paths.names("eval")]):
        remedy = nearest(name, known, f"there are: {', '.join(known)}")
        raise wrong(f"is {name!r}, which is not a set of questions", remedy)
    return name


class Spec(Declaration):
    """A pipeline. `evals` are names of conf/eval, or "test". `overrides` are for all launches, `evaluate` for each evaluation."""

    name: str = Field(validation_alias=OWN_NAME)
    id: str = Field(pattern="^[^/]*$", description="posttrain.runs_dir moves the folder")
    stages: Annotated[
        list[Annotated[Entry, BeforeValidator(_by_kind)]],
        AfterValidator(must(len, "name at least one recipe", "names no stage")),
        AfterValidator(_named_apart),
    ] = Field(description="write a list: one `- {recipe: NAME}` a stage")
    evals: Annotated[
        list[Annotated[str, AfterValidator(_known_questions)]],
        AfterValidator(must(len, "name at least one", "names no set of questions")),
    ] = Field(description="write a list: [NAME, ...]")
    runs_dir: Path
    require_inspected: StrictBool = True
    export: StrictBool = True
    report: StrictBool = True
    seed: Whole | None = None
    overrides: list[Override] = Field(default=[], description="write a list: [KEY=VALUE, ...]")
    evaluate: list[EvaluateOverride] = Field(default=[], description="write a list: [KEY=VALUE, ...]")


RUNNING, WAITING = "running", "waiting"


class Journal:
    """The stages as they stand; written whole after every change."""

    def __init__(self, home: Path, facts: dict[str, Any]):
        self._file = home / PIPELINE_FILE
        before = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._stages: dict[str, dict[str, Any]] = {stage["name"]: stage for stage in before.get("stages", [])}
        self._facts = facts

    def note(self, name: str, **facts: Any) -> None:
        """Record facts of a stage: `state`, `run` (relative to the pipeline's folder), `why` ..."""
        self._stages.setdefault(name, {"name": name}).update(facts)
        text = json.dumps({**self._facts, "stages": list(self._stages.values())}, indent=2)
        write_atomically(self._file, text + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage over all its tries, and say how it ended."""
        began, earlier = time.monotonic(), float(self._stages.get(name, {}).get("seconds", 0.0))
        self.note(name, state=RUNNING)
        state = FAILED
        try:
            yield
            state = DONE
        except KeyboardInterrupt:
            state = INTERRUPTED
            raise
        except InputError:  # something that the user has to do first
            state = WAITING
            raise
        finally:
            self.note(name, state=state, seconds=round(earlier + time.monotonic() - began, 1))


def adopt_former_names(home: Path, first: str) -> None:
    """Let a pipeline resume that began when only its first stage could be followed by another.

    What it left without the name of a stage is that of the stage `first`.
    """
    former = [(home / f"{kind}.json", home / f"{kind}-{first}.json") for kind in ("chosen", "plateau")]
    former += [(file, file.with_name(f"{first}-{file.name}")) for file in (home / "held_out").glob("step-[0-9]*")]
    for old, new in former:
        if old.exists() and not new.exists():
            old.rename(new)
    journal = home / PIPELINE_FILE
    if journal.is_file() and any(stage["name"] == "choose" for stage in json.loads(journal.read_text())["stages"]):
        write_atomically(journal, journal.read_text().replace('"name": "choose"', f'"name": "choose-{first}"'))


class StageFailed(WorkFailed):
    """A verb did not end well; its own last line says why."""

    def __init__(self, name: str, code: int):
        super().__init__(f"{name} ended with exit code {code}")
        self.code = code


@dataclass
class Pipeline:
    """One pipeline in its folder: `runs` with a run for each training, `eval`, `export`, report.html, pipeline.json."""

    spec: Spec
    home: Path
    journal: Journal
    _composed: dict[tuple[str, ...], Composed] = field(default_factory=dict, repr=False)

    def compose(self, overrides: list[str]) -> Composed:
        """A launch, composed once."""
        key = tuple(overrides)
        if key not in self._composed:
            self._composed[key] = composing.compose(overrides)
        return self._composed[key]

    def launches(self) -> list[Composed]:
        """The launches of all entries, in order. The model of each is that of its recipe."""
        return [composed for entry in self.spec.stages for composed in entry.launches(self)]

    def received(self, entry: Entry) -> list[str]:
        """The overrides that an entry begins with: what those before it hand over."""
        received: list[str] = []
        for before in self.spec.stages[: self.place_of(entry)]:
            received = before.hand_over(self, received)
        return received

    def place_of(self, entry: Entry) -> int:
        """The number of an entry in the list."""
        return [each.name for each in self.spec.stages].index(entry.name)

    def evaluate_model(self, model: str, questions: str, label: str, out: Path) -> float:
        """The accuracy of a model on a set of questions, a name of conf/eval or a Parquet; measured if `out` is not there.

        A Parquet is graded by the own reward of the last launch that has one. The figure is the mean reward where that
        one does not say what is right.
        """
        if not out.is_file():
            data_dir = self.launches()[-1].data_dir.parent
            arguments = [f"base_model={model}", f"eval={questions}", f"label={label}", f"posttrain.out={out}"]
            arguments += self.reward_arguments() if questions.endswith(".parquet") else []
            call_verb("evaluate", [*arguments, f"posttrain.data_dir={data_dir}", *self.spec.evaluate])
        return headline(read_result(out))[1]["value"]

    def reward_arguments(self) -> list[str]:
        """The arguments of a verb that name the own reward of the last launch that has one."""
        rewards = [reward for launch in self.launches() if (reward := own_reward.of_settings(launch.settings))]
        return own_reward.as_arguments(rewards[-1]) if rewards else []


def call_verb(verb: str, arguments: list[str]) -> None:
    """Run one of our own verbs in a process of its own, which frees its memory. Raises StageFailed: it did not end with 0."""
    code = subprocess.run([warm.python(), "-m", f"posttrain_verl.{verb}", *arguments], check=False).returncode
    if code:
        raise StageFailed(verb, code)
