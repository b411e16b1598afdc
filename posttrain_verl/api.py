"""The verbs as functions, for a program or a notebook: `from posttrain_verl import api`. docs/python.md is the page for users.

Each function does the work of the verb of its name, and returns what it found as a typed result. None prints, ends the
process or handles a signal. Progress goes to the loggers `posttrain_verl` and `data_prep`. Wrong input raises `InputError`,
and work that fails raises `WorkFailed`. A run that fails raises nothing, because its status says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from posttrain_verl import clusters, recipe_verbs, run_verbs, verbs
from posttrain_verl.overrides import expand_keys
from posttrain_verl.preflight import checked
from posttrain_verl.preflight.checked import CheckResult
from posttrain_verl.run import resume, supervise
from posttrain_verl.run.digest import Digest, follow_digest
from posttrain_verl.run.folder import DONE, FAILED, RUNNING, RunFolder, Status, worked_seconds
from posttrain_verl.run.output import MetricsTail, last_records, parse_line
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed, without_permission
from posttrain_verl.verl.composed import Composed

if TYPE_CHECKING:  # they take a second to import
    from posttrain_verl.evaluate.comparison import Comparisons, Evaluation

__all__ = ["CheckResult", "Composed", "InputError", "Problem", "Run", "RunStatus", "WorkFailed",
           "check", "compare", "compose", "evaluate", "launch", "report", "run"]  # fmt: skip

WAITING = "waiting"  # in a queue of a cluster that cannot be asked
JOB_SECONDS = 2.0  # between two questions to a cluster
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}""")  # in a value, where spaces are meant
LAST_LINES = 5  # of metrics.jsonl, where a validation has a line of its own


@without_permission()
def compose(*words: str, **fields: Any) -> Composed:
    """Compose a launch from the words of the command line, e.g. `compose("recipe=math_grpo", "hardware=8xh100")`.

    Raises:
        InputError: a word cannot be read, an option is unknown, or the recipe does not compose.
    """
    return recipe_verbs.compose_arguments(_check_words("compose", words, fields))


@without_permission()
def check(composed: Composed) -> CheckResult:
    """Run every check on a launch, and plan it. Nothing is started, and no problem of the recipe raises."""
    _require_composed("check", composed)
    return checked.check_launch(composed)


@dataclass(frozen=True)
class RunStatus:
    """What a run does, or how it ended, at the time of asking.

    `state` is waiting, running, done, failed, interrupted, or lost where its supervisor was killed. `step` is the last one of
    `total_steps`, and `metrics` has the last value of each metric. `activity` is what the trainer does. `why` says why the run
    ended and `advice` what to do. `seconds` is the work of all `attempts`.
    """

    path: Path
    state: str
    step: int | None
    total_steps: int | None
    activity: str
    why: str
    advice: str
    seconds: float
    attempts: int
    metrics: dict[str, float] = field(repr=False)

    @property
    def has_ended(self) -> bool:
        return self.state not in (WAITING, RUNNING)

    def __str__(self) -> str:
        """State, step and reason in one line, and the advice below it."""
        steps = f"step {self.step or 0}{f' of {self.total_steps}' if self.total_steps else ''}"
        why = f": {self.why}" if self.why else ""
        return "\n".join(
            [f"{self.path.parent.name}/{self.path.name} {self.state} at {steps}{why}", *filter(None, [self.advice])]
        )


@dataclass(frozen=True)
class Run:
    """A run of any age, by its folder. It holds nothing else: each method looks at the run as it is now."""

    path: Path

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path):
            raise InputError("no such run", [Problem(f"{self.path!r} is not a folder", "give the folder of a run")])
        object.__setattr__(self, "path", Path(self.path).expanduser().absolute())

    def _folder(self, has_begun: bool = False) -> RunFolder:
        """The files of the run. Raises InputError where they are gone, and with `has_begun` where it waits in a queue."""
        folder = RunFolder(self.path)
        folder.require()
        if has_begun and folder.is_queued:
            what = (
                f"{folder.path} is {folder.queue_note.read_text().strip()}, which only its own programs can ask or end"
            )
            raise InputError("the run has not begun", [Problem(what, "wait() returns when it has ended")])
        return folder

    @property
    def state(self) -> str:
        """The state alone; see `RunStatus`."""
        return self.status().state

    @without_permission()
    def status(self) -> RunStatus:
        """What the run does, or how it ended.

        Raises:
            InputError: the run's folder is gone, or the cluster that has the run does not answer.
        """
        folder = self._folder()
        return self._describe(folder, *run_verbs.current_state(folder))

    def _describe(self, folder: RunFolder, state: str, status: Status) -> RunStatus:
        if folder.is_queued:
            state, status = WAITING, replace(status, why=folder.queue_note.read_text().strip())
        attempts = folder.read_attempts(status)
        measured: dict[str, float] = {}
        for _, values in map(parse_line, last_records(folder.metrics, LAST_LINES)):
            measured |= {key: value for key, value in values.items() if isinstance(value, int | float)}
        return RunStatus(
            path=self.path,
            state=state,
            step=status.last_step,
            total_steps=status.total_steps,
            activity=status.stage,
            why=status.why,
            advice=_advise(folder, state),
            seconds=worked_seconds(attempts),
            attempts=len(attempts),
            metrics=measured,
        )

    @without_permission()
    def metrics(self) -> dict[int, dict[str, Any]]:
        """What was measured in each step, in the order of steps."""
        found: dict[int, dict[str, Any]] = {}
        for step, measured in MetricsTail(self._folder().metrics).read():
            found.setdefault(step, {}).update(measured)
        return dict(sorted(found.items()))

    @without_permission()
    def wait(self, seconds: float | None = None) -> RunStatus:
        """Wait until the run has ended, or for so many `seconds`, and log a line a step. Ctrl-C ends the waiting alone.

        A cluster that is silent for less than a minute is asked again. After `seconds` the status is what was seen last.

        Raises:
            InputError: the run's folder is gone.
            WorkFailed: the cluster was silent for a minute. The job continues.
        """
        for line in follow_digest(Digest(self._folder()), self._ended(seconds)):
            log.info(line)
        [seen] = run_verbs.asked_states([self._folder()])
        return self._describe(*seen)

    def _ended(self, seconds: float | None) -> Iterator[bool]:
        heard = time.monotonic()
        until = heard + (float("inf") if seconds is None else seconds)
        folder = self._folder()
        while True:
            jobs = clusters.jobs_of(folder.read_status())
            try:
                has_ended, heard = self.status().has_ended, time.monotonic()
            except (InputError, RuntimeError, OSError) as error:
                folder.require()
                if jobs is None:
                    raise
                if time.monotonic() - heard > clusters.LOST_SECONDS:
                    what = f"the cluster has been silent for {clusters.LOST_SECONDS:g} s, and the job continues there"
                    raise WorkFailed(f"{what}; status() asks again: {error}") from error
                has_ended = False
            yield has_ended or time.monotonic() >= until
            if jobs:
                time.sleep(JOB_SECONDS)

    @without_permission()
    def stop(self) -> RunStatus:
        """End the run and every process of it.

        Raises:
            InputError: another machine has the run.
            WorkFailed: a process of it does not end.
        """
        ended, did = run_verbs.stop_run(self._folder(has_begun=True))
        if not ended:
            raise WorkFailed(did)
        log.info(did)
        return self.status()

    @without_permission()
    def resume(self, *words: str, detach: bool = False) -> Run:
        """Resume from the last whole checkpoint, with keys that change for the next attempts, as the verb `resume` does.

        Like `launch` it returns when the run has ended, or with `detach` when its process has begun.

        Raises:
            InputError: the run is running, is done, or cannot be resumed with these keys.
        """
        folder, asked = (
            self._folder(has_begun=True),
            resume.read_request([f"run={self.path}", *expand_keys(_check_words("resume", words))]),
        )
        detached = detach or asked.detach
        if jobs := clusters.jobs_of(folder.read_status()):
            jobs.resume(folder, replace(asked, detach=True))
        elif run_verbs.prepare_resume(folder, asked):
            supervise.start_detached(folder) if detached else supervise.run_beside(folder)
        return _attend(folder, detached)

    @without_permission()
    def weights(self, step: int | None = None) -> Path:
        """The Hugging Face folder of a checkpoint, the newest if no `step` is named. It is exported where only shards are there.

        Raises:
            InputError: there is no such checkpoint, or it cannot be exported.
            WorkFailed: what was exported is not the model of the checkpoint.
        """
        from posttrain_verl.export.weights import ensure_weights

        return ensure_weights(self._folder(has_begun=True), step)


def _advise(folder: RunFolder, state: str) -> str:
    """What the user can do about a run that did not end well."""
    if state in (WAITING, RUNNING, DONE):
        return ""
    if not folder.status.exists():
        return f"{folder.path / supervise.DETACHED_OUTPUT} says why it did not start"
    has_checkpoint = any(folder.checkpoint_steps())
    again = f"resume() continues from {'the last whole checkpoint' if has_checkpoint else 'the start, without a checkpoint'}"
    return f"the log is {folder.log}; {again}" if state == FAILED else again


@without_permission()
def launch(composed: Composed, *, detach: bool = False) -> Run:
    """Check a launch, build what is missing, and run it where `cluster=` says.

    Returns when the run has ended, however it ended, or with `detach` (or `detach=true` among the words) when its process has
    begun. Without `detach` the run ends with this process, and with Ctrl-C, which is raised again.

    Raises:
        InputError: the launch cannot run. It leaves no folder.
        WorkFailed: the weights of `base_model=run:NAME` could not be exported.
    """
    _require_composed("launch", composed)
    composed = recipe_verbs.export_weights(composed)
    detached = detach or bool(composed.posttrain.detach)
    return _attend(clusters.start_launch(composed, detached), detached)


def _require_composed(function: str, given: Composed) -> None:
    """Raises InputError where a function of a launch gets something else, as the words of one."""
    if not isinstance(given, Composed):
        what = f"{function} takes what compose() returns, and got {given!r}"
        raise InputError("nothing is composed", [Problem(what, f'api.{function}(api.compose("recipe=math_grpo"))')])


def _check_words(function: str, words: tuple[str, ...], fields: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """The words as a list. Raises InputError where they are not the words of a command line, each a string of its own."""
    example = f'{function}("recipe=math_grpo", "hardware=8xh100")'
    problems = [Problem(f"{key}= is given as a keyword", f'give each word as a string of its own: "{key}={value}"')
                for key, value in fields.items()]  # fmt: skip
    problems += [
        Problem(f"{word!r} is not a word", f"give each word as a string of its own: {example}")
        for word in words
        if not isinstance(word, str) or re.search(r"\s[\w.+~/]+=", re.sub(_QUOTED, "", word))
    ]
    if problems:
        raise InputError("the words cannot be read", problems)
    return list(words)


def _attend(folder: RunFolder, detached: bool) -> Run:
    """The run, which has ended unless it is detached. A job of a cluster is waited for, and stopped by Ctrl-C."""
    found = Run(folder.path)
    try:
        if not detached and clusters.jobs_of(folder.read_status()):
            found.wait()
    except KeyboardInterrupt:
        found.stop()
        raise
    return found


@without_permission()
def run(name: str | Path, runs_dir: str | Path = "runs") -> Run:
    """The run that a name means: a folder, `RECIPE/ID`, an id, or a recipe, which means its newest run.

    Raises:
        InputError: no run has that name, or several have it.
    """
    return Run(RunFolder.find(str(name), runs_dir, 'runs_dir="..."').path)


@without_permission()
def evaluate(
    *words: str,
    eval: str | Path,
    run: Run | str | Path | None = None,
    base_model: str | Path | None = None,
    **fields: str | float | Path | None,
) -> Evaluation:
    """Answer and grade a set of questions with a model, or with the newest checkpoint of a run.

    `fields` are those of the verb `evaluate`: rows, k, temperature, max_tokens, label, out ... `words` are keys of the set's file
    (`"source.split=test"`) and `"reward_kwargs.NAME=VALUE"`. Answers that are on disk already are not asked for again.

    Raises:
        InputError: the model, the set or a field is wrong.
        WorkFailed: an engine ended early. The same call continues with the answers that are there.
    """
    from posttrain_verl.evaluate.__main__ import evaluate_model
    from posttrain_verl.evaluate.comparison import Evaluation
    from posttrain_verl.evaluate.job import read_job

    given = {"eval": eval, "run": None if run is None else _place(run), "base_model": base_model, **fields}
    arguments = [f"{name}={value}" for name, value in given.items() if value is not None]
    asked = read_job(command_line.read(verbs.Evaluate, [*words, *arguments]))
    return Evaluation(asked.out.absolute(), evaluate_model(asked))


@without_permission()
def compare(*evaluations: Evaluation | Run | str | Path, runs_dir: str | Path = "runs") -> Comparisons:
    """Compare evaluations on the questions that they share. The first one is the baseline.

    An evaluation is compared as it is, also where a later one has replaced its file. It may also be named by its file, a folder
    of files, or its run.

    Raises:
        InputError: there is no evaluation, one is named twice, or two of them cannot be compared.
    """
    from posttrain_verl.evaluate.comparison import Evaluation, compare_places

    asked = command_line.read(verbs.Compare, [*map(_place, evaluations), f"posttrain.runs_dir={runs_dir}"])
    named = zip(evaluations, asked.places, strict=True)
    return compare_places([each if isinstance(each, Evaluation) else place for each, place in named], asked.runs_dir)


@without_permission()
def report(
    run: Run | str | Path,
    vs: Evaluation | Run | str | Path | None = None,
    out: str | Path | None = None,
    *,
    rollouts: int | None = None,
    runs_dir: str | Path = "runs",
) -> Path:
    """Write one self-contained page about a run, a sweep or a pipeline, and return its path.

    `vs` is what to compare with, and `rollouts` the most that the page holds.

    Raises:
        InputError: there is no such run, or nothing to compare with.
    """
    from posttrain_verl.report.__main__ import report_subject

    given = {
        "run": _place(run),
        "vs": None if vs is None else _place(vs),
        "out": out,
        "rollouts": rollouts,
        "runs_dir": runs_dir,
    }
    arguments = [f"{name}={value}" for name, value in given.items() if value is not None]
    return report_subject(command_line.read(verbs.Report, arguments)).absolute()


def _place(named: Evaluation | Run | str | Path) -> str:
    """What the command line would call it. Raises InputError for anything else, e.g. None or a list."""
    path = getattr(named, "path", named)
    if not isinstance(path, str | Path) or str(path).startswith("-"):
        remedy = "give a run, an evaluation, or the name or path of one, each as an argument of its own"
        raise InputError("nothing is named", [Problem(f"{named!r} is neither a run nor an evaluation", remedy)])
    return str(path)
