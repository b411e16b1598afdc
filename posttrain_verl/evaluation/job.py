"""An evaluation as the command line asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import base_models, options, overrides, paths
from posttrain_verl.evaluation import questions
from posttrain_verl.evaluation.engine import has_chat_template
from posttrain_verl.evaluation.questions import EvalSet, Report
from posttrain_verl.evaluation.result import SamplingFields
from posttrain_verl.exporting.on_demand import weights_of
from posttrain_verl.problem import InputError, Problem, one_of
from posttrain_verl.run.folder import RunFolder

SAMPLING: SamplingFields = {"temperature": 0.0, "top_p": 1.0, "k": 1, "max_tokens": 1024, "seed": 0}
KINDS: dict[str, type] = {
    "base_model": str, "run": str, "eval": str, "label": str, "stratify": str, "path": str, "chat_template": str,
    "rows": int, "seconds": float, "replicas": int, "tensor_parallel": int, "k": int, "max_tokens": int, "seed": int,
    "temperature": float, "top_p": float, "posttrain.out": str, "posttrain.data_dir": str, "posttrain.runs_dir": str,
}  # fmt: skip
LEAST = {
    "rows": 1,
    "seconds": 0,
    "replicas": 1,
    "tensor_parallel": 1,
    "k": 1,
    "max_tokens": 1,
    "seed": 0,
    "temperature": 0,
}
BELOW = ("source.", "prompt.")  # keys of a file of conf/eval that may be replaced


@dataclass(frozen=True)
class Job:
    """`model` is a folder or a hub id; `out` is the file of results. `rows` and `seconds` are the budget, None the full set.

    `replicas` None is one engine for each `tensor_parallel` devices; `chat_template` takes the place of the model's own.
    """

    model: str
    label: str
    eval: EvalSet
    out: Path
    sampling: SamplingFields = field(default_factory=lambda: SAMPLING)
    stratify: str | None = None
    rows: int | None = None
    seconds: float | None = None
    replicas: int | None = None
    tensor_parallel: int = 1
    chat_template: str | None = None


def read(words: list[str], report: Report = print) -> Job:
    """The job that `base_model=... eval=... [key=value ...]` asks for; builds the questions and an embedded model.

    Raises:
        InputError: with every problem of the words; or the model, the run or the set is not there.
    """
    given, keys = read_words(words)
    if given.get("run"):
        model, label, folder = _of_run(given["run"], given.get("posttrain.runs_dir", "runs"), report)
    else:
        model = _of_name(given["base_model"], report)
        label, folder = "base", Path(given.get("posttrain.runs_dir", "runs")) / "eval" / Path(model).name
    template = _template(model, given)
    chosen = questions.choose(given["eval"], Path(given.get("posttrain.data_dir", "data")).expanduser(), keys, report)
    label = given.get("label", label)
    out = Path(given.get("posttrain.out") or folder / f"{label}-{chosen.name}.json").expanduser()
    sampling: Any = {**SAMPLING, **chosen.sampling, **{key: given[key] for key in SAMPLING if key in given}}
    if sampling["k"] > 1 and sampling["temperature"] == 0:
        what = f"k={sampling['k']} with temperature=0 would draw the same answer {sampling['k']} times"
        raise InputError("nothing to sample", [Problem(what, "add temperature=0.8, or leave k out")])
    return Job(model, label, chosen, out, sampling, given.get("stratify", chosen.stratify), given.get("rows"),
               given.get("seconds"), given.get("replicas"), given.get("tensor_parallel", 1), template)  # fmt: skip


def read_words(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The words by their keys, and those that replace keys of the set."""
    given: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    problems: list[Problem] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.startswith(BELOW):
            keys[key] = options.plain(value)
        elif equals and key in KINDS:
            given[key] = _typed(key, value, problems)
        else:
            known = [f"{key}=" for key in KINDS]
            problems.append(Problem(f"'{word}' is no option of evaluate", one_of(f"{key}=", known)))
    if given.get("path"):
        keys["path"] = given["path"]
    if ("run" in given) == ("base_model" in given):
        problems.append(Problem("one of base_model= and run= is needed", "add base_model=NAME or FOLDER, or run=ID"))
    if "eval" not in given:
        problems.append(Problem("eval= is missing", f"add eval=FILE.parquet, or one of {', '.join(questions.names())}"))
    problems += options.output("posttrain.out", given.get("posttrain.out") or "")
    if problems:
        raise InputError("nothing to evaluate", problems)
    return given, keys


def _typed(key: str, value: str, problems: list[Problem]) -> Any:
    if not value:
        problems.append(Problem(f"{key}= has no value", "leave it out, or give one"))
        return None
    try:
        found = KINDS[key](value)
    except ValueError:
        problems.append(Problem(f"{key}={value} is no number", f"{key} is {KINDS[key].__name__}"))
        return None
    if key in LEAST and found < LEAST[key]:
        problems.append(Problem(f"{key}={value} is too small", f"at least {LEAST[key]}"))
    return found


def _of_run(name: str, runs_dir: str, report: Report) -> tuple[str, str, Path]:
    """The weights of a run's newest checkpoint, exported if need be; the label of its stage; the folder of its evaluations."""
    run = RunFolder.find(name, runs_dir)
    config = OmegaConf.load(run.config)
    assert isinstance(config, DictConfig)
    rl = "actor_rollout_ref" in config
    model = weights_of(run, "rl" if rl else "sft", report=report)
    estimator = str(OmegaConf.select(config, "algorithm.adv_estimator")) if rl else "sft"
    return str(model), {"gae": "ppo"}.get(estimator, estimator), run.path / "eval"


def _of_name(name: str, report: Report) -> str:
    """A folder on disk (an embedded model is built), or the hub id that a file of conf/base_model names."""
    if base_models.is_embedded(name) or Path(name).expanduser().is_dir():
        return str(base_models.ensure(name, report))
    file = paths.conf_dir() / "base_model" / f"{name}.yaml"
    if "/" in name or not file.is_file() or name == "folder":
        what = f"{name} is neither a folder nor a model of conf/base_model"
        raise InputError("nothing to evaluate", [Problem(what, one_of(name, overrides.names("base_model")))])
    return str(OmegaConf.load(file).path)


def _template(model: str, given: dict[str, Any]) -> str | None:
    file = given.get("chat_template")
    if file is not None:
        if not Path(file).is_file():
            raise InputError("nothing to evaluate", [Problem(f"chat_template={file} is no file", "name a Jinja file")])
        return Path(file).read_text(encoding="utf-8")
    if not has_chat_template(model):
        what = f"{model} has no chat template, so there is no telling how to ask it"
        raise InputError("nothing to evaluate", [Problem(what, "add chat_template=FILE.jinja")])
    return None
