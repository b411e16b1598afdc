"""What the verbs take that look at a model: evaluate, synthesize, compare and export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from posttrain_verl import paths
from posttrain_verl.terminal.command_line import Names, OutFile, OutFolder, Verb, fields, key, key_of, option
from posttrain_verl.terminal.problem import Problem, one_of
from posttrain_verl.verbs.common import AtLeast0, AtLeast1, OfRuns, OneRun, Reward, group, run_names


def _find_misuse(verb: type[Verb], override: str) -> str:
    name, known = override.partition("=")[0], [key_of(each) for each in fields(verb) if not each.metadata["flags"]]
    return "" if name in known or re.match(verb.TAKES, override) else one_of(name, known)


class Evaluate(OfRuns):
    """Answer and grade a set of questions with a model, or with the newest checkpoint of a run."""

    EXAMPLE = "run=math_grpo eval=math_500 k=8 temperature=0.8"
    TITLE = "nothing to evaluate"
    TAKES = r"(source|prompt|reward_kwargs)\..*="
    OTHERS = "keys of the set's file below source. and prompt.; reward_kwargs.NAME=VALUE of your own reward"
    EXITS = "0 done, 1 an engine failed, 2 the input is wrong, 130 interrupted"
    PROGRESS = "stderr"
    RESUME = "the same command continues with the answers that are there"

    base_model: str | None = key(
        None, "a name of conf/base_model, a folder, Org/Model, or run:NAME", names=group("base_model")
    )
    run: str | None = key(None, "a run, instead of base_model; its weights are exported if need be", names=run_names)
    eval: str | None = key(None, "a name of conf/eval, or a Parquet in the RL schema", names=group("eval"))
    reward: Reward = key("", "your own reward: FILE.py:NAME, or pkg://MODULE:NAME", shown="the run's, or our graders")
    k: AtLeast1 | None = key(None, "answers to each question", shown="the set's, or 1")
    temperature: Annotated[float, Ge(0)] | None = key(None, "0 is greedy", shown="the set's, or 0")
    top_p: float | None = key(None, "of nucleus sampling", shown="the set's, or 1")
    max_tokens: AtLeast1 | None = key(None, "of an answer", shown="the set's, or 1024")
    seed: AtLeast0 | None = key(None, "of the sampling", shown="the set's, or 0")
    rows: AtLeast1 | None = key(None, "a stratified sample of so many questions", shown="all", old="limit")
    seconds: Annotated[float, Ge(0)] | None = key(None, "a budget of time, also stratified")
    stratify: str | None = key(None, "the column to stratify by", shown="the set's")
    label: str | None = key(None, "the name of the result", shown="by the model")
    path: str | None = key(None, "the rows of the set, where there is no network")
    replicas: AtLeast1 | None = key(None, "engines", shown="as many as fit")
    tensor_parallel: AtLeast1 = key(1, "devices of an engine")
    chat_template: str | None = key(None, "a Jinja file, instead of the model's own")
    out: OutFile = key("", "the results", "posttrain.out", shown="by run or model")
    data_dir: str = key("data", "where the questions lie", "posttrain.data_dir")
    as_json: bool = option("--json", text="print the results without the items as JSON")

    @classmethod
    def misuse(cls, override: str) -> str:
        """The remedy for a `key=value` that is not for this verb; "" for one that is."""
        return _find_misuse(cls, override)

    def problems(self) -> Iterator[Problem]:
        if bool(self.run) == bool(self.base_model):
            yield Problem("one of base_model= and run= is needed", "add base_model=NAME or FOLDER, or run=ID")
        if self.eval is None:
            yield Problem("eval= is missing", f"add eval=FILE.parquet, or one of {', '.join(paths.names('eval'))}")


def _url_flaw(value: str) -> tuple[str, str] | None:
    """What is wrong with the address of an endpoint, and the remedy."""
    if re.match(r"https?://[^\s/]", value):
        return None
    return " is not an address", "give the base of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1"


REJECTABLE = ("cut_off", "undecided")  # answers that nobody knows to be wrong


def _reject_flaw(value: str) -> tuple[str, str] | None:
    """What is wrong with a value of `also_reject=`, and the remedy."""
    unknown = [each for each in value.split(",") if value and each not in REJECTABLE]
    return (f": {unknown[0]} is not known", f"write {', '.join(REJECTABLE)}, or both with a comma") if unknown else None


class Synthesize(OfRuns):
    """Make training data of a model's own answers: right ones for SFT, pairs, and pass rates."""

    MAIN = "mix"
    EXAMPLE = "mix=math base_model=qwen2_5_7b_instruct n=8"
    TITLE = "nothing to synthesize"
    TAKES = r"(endpoint|reward_kwargs)\..*="
    OTHERS = "endpoint.KEY=VALUE (docs/synthesize.md); reward_kwargs.NAME=VALUE of your own reward"
    EXITS = "0 done, 1 an engine failed or no answer is right, 2 the input is wrong, 130 interrupted"
    PROGRESS = "stderr"
    RESUME = "the same command continues with the answers that are there"

    mix: str = key("", "asks its training questions; or a Parquet", names=group("mix"),
                   remedy="add mix=NAME, or mix=FILE.parquet in the RL schema")  # fmt: skip
    base_model: str | None = key(None, "of conf/base_model, or a folder", names=group("base_model"))
    run: str | None = key(None, "a run, instead of base_model", names=run_names)
    endpoint: Annotated[str, _url_flaw] = key("", "an OpenAI-compatible API instead")
    n: AtLeast1 = key(8, "answers to each question")
    keep: AtLeast0 | None = key(None, "the most solutions of a question", shown="4, or n")
    choice: Literal["different", "shortest", "random"] = key("different", "which of the right answers")
    near_duplicate: Annotated[float, Ge(0), Le(1)] = key(0.8, "so alike count once; 0: all count")
    pairs: AtLeast0 = key(1, "the most pairs of a question")
    match_lengths: bool = key(True, "drop pairs that length tells apart")
    also_reject: Annotated[str, _reject_flaw] = key("", "cut_off, undecided, or both")
    val: Annotated[float, Ge(0), Le(0.5)] = key(0.05, "of the questions: pairs_val")
    temperature: Annotated[float, Ge(0)] = key(1.0, "of the sampling")
    top_p: Annotated[float, Ge(0), Le(1)] = key(1.0, "of nucleus sampling")
    max_tokens: AtLeast1 | None = key(None, "of an answer", shown="by run or mix")
    seed: AtLeast0 = key(0, "of sampling and choice")
    rows: AtLeast1 | None = key(None, "a stratified sample of questions", shown="all", old="limit")
    stratify: str | None = key(None, "the column to stratify by", shown="what varies")
    reward: Reward = key("", "FILE.py:NAME, or pkg://MODULE:NAME", shown="run's or ours")
    right_at: float | None = key(None, "the score of a right answer", shown="by acc")
    replicas: AtLeast1 | None = key(None, "engines", shown="what fits")
    tensor_parallel: AtLeast1 = key(1, "devices of an engine")
    chat_template: str | None = key(None, "a Jinja file", shown="the model's")
    data_name: str = key("", "the data lies in DIR/NAME", "name", shown="MIX_MODEL")
    data_dir: OutFolder = key("data", "DIR", "posttrain.data_dir")
    force: bool = option("--force", text="ask anew, and write over")
    as_json: bool = option("--json", text="print the manifest as JSON")

    @classmethod
    def misuse(cls, override: str) -> str:
        """The remedy for a `key=value` that is not for this verb; "" for one that is."""
        return _find_misuse(cls, override)

    def problems(self) -> Iterator[Problem]:
        if sum(map(bool, (self.run, self.base_model, self.endpoint))) != 1:
            what = "exactly one of base_model=, run= and endpoint= is needed"
            yield Problem(what, "add base_model=NAME or FOLDER, run=ID, or endpoint=URL")
        if self.keep is not None and self.keep > self.n:
            yield Problem(
                f"keep={self.keep} is more than the n={self.n} answers to a question", f"keep={self.n}, or less"
            )
        if self.n > 1 and self.temperature == 0:
            yield Problem(f"n={self.n} with temperature=0 would draw the same answer {self.n} times", "temperature=1.0")
        if self.keep == 0 and not self.pairs:
            yield Problem("keep=0 and pairs=0 select nothing", "set one of them to 1 or more")
        if self.data_name and not re.fullmatch(r"\w[\w.-]*", self.data_name):
            yield Problem(
                f"name={self.data_name} is not a name", "letters, digits, dots, dashes; posttrain.data_dir moves it"
            )


class Compare(OfRuns):
    """Compare evaluations of the same questions: paired difference, McNemar test, and whether the gain is real."""

    ONLY_PRINTS = True
    EXAMPLE = "runs/eval/base.json math_grpo --failures"
    TITLE = "nothing to compare"
    TAKES = r"(?!posttrain\.)"
    OTHERS = "files of results, folders of them, or runs; the first is the baseline"
    NAMES: ClassVar[dict[str, Names]] = {"run": run_names}

    as_json: bool = option("--json", text="print everything as JSON")
    failures: bool = option("--failures", text="show 20 random wrong answers of each kind")

    @property
    def places(self) -> list[str]:
        return [re.sub("^(run|vs)=", "", argument) for argument in self.arguments]

    def problems(self) -> Iterator[Problem]:
        if not self.places or not all(self.places):
            yield Problem("no evaluation is named", "name files of results, folders of them, or runs")


class Export(OneRun):
    """Write what a run trained as a Hugging Face folder, and prove that it is the model of the checkpoint."""

    EXAMPLE = "run=math_grpo step=200"
    TITLE = "nothing to export"
    EXITS = "0 all that could be looked at holds, 1 something does not, 2 the input is wrong"

    step: AtLeast0 | None = key(None, "the checkpoint", shown="the newest")
    form: Literal["merged", "adapter"] = key("merged", "adapter: of a LoRA run the adapter alone")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key("auto", "auto: that of the base")
    vllm: bool = key(True, "whether vLLM has to load it, too")
    out: OutFolder = key("", "the folder, which must not exist", "posttrain.out", shown="RUN/export-STEP")
    as_json: bool = option("--json", text="print the folder and what was found as JSON")
