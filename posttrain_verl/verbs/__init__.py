"""What each verb takes. `posttrain --help`, the help of each verb and shell completion need only `terminal` and `paths`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from posttrain_verl import paths
from posttrain_verl.terminal.command_line import Names, OutFile, OutFolder, Verb, fields, key, option
from posttrain_verl.terminal.problem import Problem, one_of
from posttrain_verl.verbs.common import AtLeast0, AtLeast1, OfRuns, OneRun, Reward, group, reward_key, run_names
from posttrain_verl.verbs.of_models import Compare, Evaluate, Export, Synthesize

TEMPLATES = Path(paths.__file__).with_name("templates")  # what `new` writes


class RecipeVerb(Verb):
    """What a verb takes that composes a recipe: any key of VeRL, our groups, and the keys of conf/launch.yaml."""

    TAKES: ClassVar[str] = ""
    ANY_KEY: ClassVar[bool] = True
    OTHERS: ClassVar[str] = (
        "any key of VeRL, keys of posttrain.* (docs/config.md), reward_kwargs.NAME=VALUE. "
        "run_id=, runs_dir=, data_dir=, detach= and the like need no posttrain. before them"
    )
    EXITS: ClassVar[str] = "0 done, 1 the run failed, 2 the input is wrong, 130 interrupted"
    NAMES: ClassVar[dict[str, Names]] = {name: group(name) for name in paths.OUR_GROUPS}

    cfg: Literal["job"] | None = option("--cfg", default=None, text="--cfg job prints what VeRL would get, and stops")
    resolve: bool = option("--resolve", text="with --cfg: resolve interpolations")
    changes: bool = option("--changes", text="show each setting that the hardware changed")
    multirun: bool = option("-m", "--multirun", text="one run for each of the values: -m a=1,2 b=3,4")

    @classmethod
    def more_rows(cls) -> list[tuple[str, str, str, str]]:
        shown = {name: ", ".join(paths.names(name)) for name in paths.OUR_GROUPS}
        shown["base_model"] = (
            f"{len(paths.names('base_model'))} names of conf/base_model, a folder, or Organisation/Model"
        )
        shown["recipe"] = f"{len(paths.names('recipe'))} names of recipes/ (docs/recipes.md), or a yaml file"
        rows = [(f"{name}=", "name", "required" if name == "recipe" else "", text) for name, text in shown.items()]
        rows.append(("reward=", "text", "ours", "your own: FILE.py:NAME, or pkg://MODULE:NAME"))
        own = re.findall(r"^  (\w+): ([^\s{?]+) +# (.*)", (paths.conf_dir() / "launch.yaml").read_text(), re.MULTILINE)
        kinds = {"false": "bool", "[]": "list"}
        return rows + [(f"posttrain.{name}=", kinds.get(default, "text"), default, text) for name, default, text in own]


class Check(RecipeVerb):
    """Check a recipe and show its plan, or all its problems at once. Nothing is started."""

    ONLY_PRINTS = True
    EXAMPLE = "recipe=math_grpo hardware=8xh100"
    EXITS = "0 it can launch, 1 its rehearsal failed, 2 it cannot launch, 130 interrupted"

    as_json: bool = option("--json", text="print the result as JSON")
    rehearse: bool = option("--rehearse", text="run it small on the CPU (docs/rehearsal.md)")


class Launch(RecipeVerb):
    """Compose, check and run a recipe with VeRL on Ray, or resume a run."""

    EXAMPLE = "recipe=demo_grpo posttrain.run_id=first"
    NAMES: ClassVar[dict[str, Names]] = {"run": run_names, **RecipeVerb.NAMES}

    dry_run: bool = option("--dry-run", text="print what the cluster would get, and submit nothing")

    @classmethod
    def more_rows(cls) -> list[tuple[str, str, str, str]]:
        return [("run=", "text", "", "the run to resume from its last whole checkpoint"), *super().more_rows()]

    def problems(self) -> Iterator[Problem]:
        resumes = any(argument.startswith("run=") for argument in self.arguments)
        for each in fields(type(self)) if resumes else ():
            if getattr(self, each.name):
                yield Problem(
                    f"run= resumes a run, and takes no {each.metadata['flags'][-1]}", "with run= give keys only"
                )


class Resume(OneRun):
    """Resume a run from its last whole checkpoint, as `launch run=NAME` does."""

    EXAMPLE = "run=math_grpo/20260801-101500"
    TAKES = ".*="
    OTHERS = "keys of VeRL and of posttrain.watch that change for the next attempts (docs/runs.md); detach=true"
    EXITS = "0 done, 1 the run failed, 2 the input is wrong, 130 interrupted"


class Prep(Verb):
    """Build the data of a mix into Parquet files and a manifest. A finished build of the same mix is kept."""

    MAIN = "mix"
    EXAMPLE = "mix=gsm8k rows=200"
    TAKES = ".*="
    OTHERS = ("keys of the mix (seed=3, splits.rl_train.rows=500); budget=N makes N rows of all splits, drawn from all; "
              "reward_kwargs.NAME=VALUE of your own reward")  # fmt: skip
    PROGRESS = "stderr"

    mix: str = key("embedded", "a name of conf/mix, or a yaml file", names=group("mix"))
    rows: AtLeast1 | None = key(
        None, "a quick first look: about so many of all splits together", shown="the mix's", old="limit"
    )
    reward: Reward = reward_key()
    data_dir: OutFolder = key("data", "the data lies in DIR/NAME-OF-THE-MIX", "posttrain.data_dir")
    verify: bool = option("--verify", text="check every byte of a finished build against its manifest")
    force: bool = option("--force", text="build again what is already there")
    as_json: bool = option("--json", text="print the manifest as JSON")


class Inspect(Verb):
    """Look at rows of each source and split of a mix, with what the checks flag, in the terminal and as one HTML page."""

    MAIN = "mix"
    EXAMPLE = "mix=gsm8k rows=5 --approve"
    TAKES = ".*="
    OTHERS = "keys of the mix and reward_kwargs.NAME=VALUE, as for prep"
    EXITS = "0 done, 1 not approved, 2 the input is wrong, 130 interrupted"
    PROGRESS = "stderr"

    mix: str = key("embedded", "a name of conf/mix, a yaml file, or a folder of data", names=group("mix"))
    rows: AtLeast1 = key(5, "rows of each source and split, drawn over its range of difficulty")
    seed: AtLeast0 = key(0, "of the draw")
    reward: Reward = reward_key()
    base_model: str = key("nano_2m", "whose template, tokens and loss mask are shown", names=group("base_model"))
    out: OutFile = key("", "the page", "posttrain.out", shown="DATA/inspection.html")
    data_dir: OutFolder = key("data", "the folder of the data", "posttrain.data_dir")
    approve: bool = option("--approve", text="record in the manifest that this data was looked at; a terminal is asked")
    who: str = option("--who", default="", text="the name to record; the default is the login name")

    def problems(self) -> Iterator[Problem]:
        if "=" in self.who:
            yield Problem(f"--who {self.who} is not a name", "--who NAME")


class Grade(Verb):
    """Grade a jsonl or Parquet file of completions: fields `data_source`, `response`, `ground_truth`."""

    EXAMPLE = "completions.jsonl mode=strict --compare"
    TITLE = "nothing to grade"
    TAKES = ""
    OTHERS = "FILE, then options of the rewards (mode=strict, timeout=5), or reward_kwargs.NAME=VALUE of your own"
    EXITS = "0 done, 1 some rows are not graded, 2 no row is, or the input is wrong, 130 interrupted"
    PROGRESS = "stderr"

    reward: Reward = reward_key()
    out: OutFile = key("", "one graded row a line", "posttrain.out")
    compare: bool = option("--compare", text="show where strict, flexible and math-verify disagree")
    as_json: bool = option("--json", text="print the sums by source as JSON")

    def problems(self) -> Iterator[Problem]:
        for argument in self.arguments[1:]:
            if "=" not in argument:
                yield Problem(f"'{argument}' is not option=value", "one file, then options")
        if not self.arguments:
            yield Problem("no file is named", "give a .jsonl or .parquet file of completions")


class New(Verb):
    """Write a commented file to begin with into the current folder: a reward, a recipe or a mix. No file is written over."""

    EXAMPLE = "reward my_reward"
    TITLE = "nothing to write"
    TAKES = r"[^=]*$"
    USAGE = "KIND [NAME [STAGE]]"
    OTHERS = ("KIND is reward (NAME.py), recipe (recipes/NAME.yaml) or mix (conf/mix/NAME.yaml); NAME is my_KIND without one; "
              "STAGE of a recipe is rl, or sft: new recipe my_sft sft")  # fmt: skip
    EXITS = "0 done, 2 the input is wrong"
    KINDS: ClassVar[tuple[str, ...]] = ("reward", "recipe", "mix")

    out: OutFile = key("", "the file, in place of that of its kind and name", "posttrain.out", shown="by kind and name")

    @property
    def kind(self) -> str:
        return self.arguments[0] if self.arguments else ""

    @property
    def file_name(self) -> str:
        """The name of the file without folder and ending."""
        return (
            self.arguments[1].removesuffix(".py").removesuffix(".yaml")
            if len(self.arguments) > 1
            else f"my_{self.kind}"
        )

    @property
    def stage(self) -> str:
        """The stage that a recipe is for; "" where none is named."""
        return self.arguments[2] if len(self.arguments) > 2 else ""

    def stages(self) -> list[str]:
        """The stages that there are templates of this kind for."""
        return sorted(file.stem.removeprefix(f"{self.kind}_") for file in TEMPLATES.glob(f"{self.kind}_*"))

    def problems(self) -> Iterator[Problem]:
        stages = self.stages()
        if self.kind not in self.KINDS:
            what = f"{self.kind} is not a kind of file" if self.kind else "no kind of file is named"
            yield Problem(what, one_of(self.kind, self.KINDS, "new "))
        elif not re.fullmatch(r"[A-Za-z_]\w*", self.file_name, re.ASCII):
            yield Problem(f"{self.arguments[1]} is not a name", "give letters, digits and underscores, a letter first")
        elif len(self.arguments) == 2 and self.file_name in stages:
            yield Problem(
                f"{self.file_name} is a stage, and no name is given", f"new {self.kind} NAME {self.file_name}"
            )
        if self.stage and stages and self.stage not in stages:
            yield Problem(
                f"{self.stage} is not a stage", one_of(self.stage, stages, f"new {self.kind} {self.file_name} ")
            )
        if len(self.arguments) > (3 if stages else 2):
            usage = f"posttrain new {self.kind} NAME{' STAGE' if stages else ''}"
            yield Problem(f"'{self.arguments[3 if stages else 2]}' is one argument too many", usage)


class Report(OneRun):
    """Write one self-contained HTML page of a run, a sweep or a pipeline: the gain, the curves, the rollouts."""

    EXAMPLE = "run=math_grpo vs=math_ppo"
    TITLE = "nothing to report"

    vs: str = key(
        "", "a run, pipeline, file or folder of results to compare with, paired on the same questions", names=run_names
    )
    rollouts: AtLeast0 = key(100_000, "the most rollouts in the page's reader")
    out: OutFile = key("", "the page", "posttrain.out", shown="FOLDER/report.html")


class Serve(OfRuns):
    """Follow the runs on a page of this machine. Ctrl-C ends it; from elsewhere, forward the port (`ssh -L`)."""

    EXAMPLE = "port=8000"
    TITLE = "nothing to serve"
    EXITS = "2 the input is wrong, 130 interrupted"

    port: Annotated[int, Ge(0), Le(65535)] = key(0, "of 127.0.0.1; 0 takes a free one")

    def problems(self) -> Iterator[Problem]:
        if not Path(self.runs_dir).is_dir():
            yield Problem(f"{self.runs_dir} is not a folder", "name the folder of the runs: posttrain.runs_dir=runs")


class Pipeline(Verb):
    """Run everything: data, stages of training one after the other, evaluation of each, export and report. It resumes."""

    MAIN = "recipe"
    EXAMPLE = "recipe=math seed=1 evaluate:rows=200"
    TITLE = "no pipeline"
    TAKES = ".*="
    OTHERS = "STAGE:KEY=VALUE for one stage, such as sft: or rl:, or for evaluate:; other keys for all launches"
    EXITS = "0 done, 1 a stage failed, 2 the input is wrong, 130 interrupted"
    RESUME = "the same command continues from there"

    recipe: str = key("", "a name of conf/pipeline, or a yaml file", shown="required", names=group("pipeline"))
    run_id: str | None = key(None, "the name of its folder", shown="by the seed, or 0", old="id")
    seed: int | None = key(None, "of data and rollouts", shown="the pipeline's")
    require_inspected: bool | None = key(None, "wait until somebody has looked at the data", shown="the pipeline's")
    export: bool | None = key(None, "whether to export", shown="the pipeline's")
    report: bool | None = key(None, "whether to write the report", shown="the pipeline's")
    plateau_metric: str | None = key(
        None, "the held-out metric that ends a stage", "plateau.metric", shown="the pipeline's"
    )
    plateau_patience: AtLeast1 | None = key(
        None, "validations without a gain", "plateau.patience", shown="the pipeline's"
    )
    plateau_min_gain: Annotated[float, Ge(0)] | None = key(None, "the least gain, as a share", "plateau.min_gain",
                                                           shown="the pipeline's")  # fmt: skip
    runs_dir: OutFolder = key("runs", "it lies in DIR/pipeline/RECIPE/ID", "posttrain.runs_dir")

    @property
    def file(self) -> Path | None:
        """The file that declares the pipeline: the user's own, or one of conf/pipeline. None where there is none."""
        return paths.find_option("pipeline", self.recipe)

    def overrides_by_stage(self) -> dict[str, list[str]]:
        """The overrides by the stage before their colon; "" for those of all launches."""
        found: dict[str, list[str]] = {}
        for each in self.arguments:
            prefixed = re.match(r"(\w+):(.*)", each, re.DOTALL)
            stage, override = prefixed.groups() if prefixed else ("", each)
            found.setdefault(stage, []).append(override)
        return found

    def problems(self) -> Iterator[Problem]:
        if self.file is None:
            known = paths.names("pipeline")
            what = f"recipe={self.recipe} is not a pipeline" if self.recipe else "no pipeline is named"
            yield Problem(what, f"recipe=NAME or FILE.yaml; {one_of(self.recipe, known, 'recipe=')}")
        if self.run_id and "/" in self.run_id:
            yield Problem(f"run_id={self.run_id} is not a name", "posttrain.runs_dir moves the folder")
        for override in self.overrides_by_stage().get("evaluate", []):  # read after all training
            if remedy := Evaluate.misuse(override):
                yield Problem(f"'evaluate:{override}' is not an option of evaluate", remedy)


class Status(OneRun):
    """Say what a run does, or how it ended."""

    ONLY_PRINTS = True
    EXAMPLE = "run=math_grpo"
    EXITS = "0 done, however the run fares; 2 the input is wrong"

    as_json: bool = option("--json", text="status.json, and the state as it is")


class Logs(OneRun):
    """Print what happened in a run, a line a step with the warnings, or the last lines of its raw log."""

    ONLY_PRINTS = True
    EXAMPLE = "run=math_grpo -f"
    EXITS = "0 done, 1 there is no log yet, 2 the input is wrong, 130 interrupted"

    raw: bool = key(False, "the log itself: all that VeRL and Ray print")
    follow: bool = option("-f", "--follow", text="continue with what is written, until the run ends")
    lines: AtLeast1 = option("-n", "--lines", default=50, text="so many of the last lines")


class Stop(OneRun):
    """End a run and every process of it. What a run left whose supervisor is gone is cleared."""

    ONLY_PRINTS = True
    EXAMPLE = "run=math_grpo"
    EXITS = "0 nothing runs, 1 something will not end, 2 the input is wrong"


class List(OfRuns):
    """List the runs of a folder, the newest first."""

    ONLY_PRINTS = True
    EXAMPLE = "posttrain.runs_dir=runs"

    as_json: bool = option("--json", text="status.json of each, and the state as it is")

    def problems(self) -> Iterator[Problem]:
        if self.runs_dir != "runs" and not Path(self.runs_dir).expanduser().is_dir():
            yield Problem(f"{self.runs_dir} is not a folder", "name the folder of the runs: posttrain.runs_dir=runs")


class Head(Verb):
    """Start a Ray head on this machine for `cluster=ray`, on the loopback and with a token, or end it."""

    EXAMPLE = "detach=true"
    TITLE = "no head"
    EXITS = (
        "0 it is up (detach=true) or was ended, 1 Ray did not come up or ended, 2 the input is wrong, 130 interrupted"
    )

    port: Annotated[int, Ge(1024), Le(65535)] | None = key(
        None, "of its dashboard, on 127.0.0.1", shown="8265, or a free one"
    )
    gpus: AtLeast1 | None = key(
        None, "how many GPUs it has, logical ones on a CPU", shown="the machine's, or 1 on a CPU"
    )
    detach: bool = key(False, "return once it is up", "posttrain.detach")
    stop: Annotated[int, Ge(1024), Le(65535)] | None = key(None, "end the head at this port, and its jobs", shown="")

    def problems(self) -> Iterator[Problem]:
        if self.stop and (self.port or self.gpus or self.detach):
            what = f"stop={self.stop} ends a head, and port=, gpus= and detach= start one"
            yield Problem(what, f"stop={self.stop} alone, or leave it out")


class FirstGpuHour(Verb):
    """Test a machine with a GPU: real training steps, and the planned memory against the allocated. Writes a report."""

    EXAMPLE = "mode=short minutes=12"
    TITLE = "no first hour"
    EXITS = "0 every part passed, 1 one did not, 2 the input is wrong, 130 interrupted"

    mode: Literal["full", "short"] = key("full", "short: one GPU, no network, no vLLM, models with random weights")
    minutes: AtLeast1 | None = key(None, "all of it ends in that time", shown="60, or 12 if short")
    base_model: str = key("", "a name of conf/base_model", shown="by the machine", names=group("base_model"))
    out: OutFile = key("", "the report; its facts go to FILE.json", shown="runs/first_gpu_hour/...")


VERBS: dict[str, type[Verb]] = {
    declared.name(): declared
    for declared in (Check, Launch, Resume, New, Prep, Inspect, Synthesize, Evaluate, Compare, Grade, Report, Serve, Export,
                     Pipeline, List, Status, Logs, Stop, Head, FirstGpuHour)
}  # fmt: skip
