"""What an evaluation is asked to do: the model, the questions and their order, and the sampling.

A set of questions is a name of conf/eval, built once into Parquet, or any Parquet in the RL schema. Each first part of the
order is a stratified sample of the set.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import data_prep
import reward_fns
from data_prep.filters.gold import has_grader
from posttrain_verl import mixes, own_reward, paths, preflight
from posttrain_verl.base_models import naming
from posttrain_verl.evaluate.engine import has_chat_template
from posttrain_verl.evaluate.result import SamplingFields
from posttrain_verl.evaluate.sampling import Sampler
from posttrain_verl.export.weights import ensure_weights
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, one_of
from posttrain_verl.verbs import Evaluate, Synthesize
from posttrain_verl.verl.verdicts import read_verdicts
from reward_fns.math.grader import grade_math, is_plain
from reward_fns.own import OwnReward

REQUIRED_COLUMNS = ("prompt", "data_source", "reward_model")


@dataclass(frozen=True)
class EvalSet:
    """A set to evaluate on: its name, its Parquet, and the defaults of conf/eval for what the command line leaves out."""

    name: str
    file: Path
    sampling: dict[str, Any] = field(default_factory=dict)
    stratify: str | None = None
    is_own: bool = False  # a Parquet of the user's, for which nobody published how to ask


@dataclass(frozen=True)
class Question:
    """One row: `id` names it in every evaluation, `messages` is the prompt, `facts` is the row's extra_info. `gold` is the
    text of `truth`, the ground truth as the row has it."""

    id: str
    messages: list[dict[str, str]]
    data_source: str
    gold: str
    facts: dict[str, Any]
    truth: Any = None

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.messages)


def choose_eval_set(
    name: str, data_dir: Path, keys: dict[str, Any] | None = None, reward: OwnReward | None = None
) -> EvalSet:
    """The set that `eval=NAME` asks for. One of conf/eval is built first if its Parquet is not there; with a `reward` of the
    user's own its rows may be of any source.

    `keys` replace keys of the file (`{"source.path": "test.jsonl"}`; `path` is short for that one).

    Raises:
        InputError: there is no such name or file, or the set cannot be built, for example because the hub cannot be reached.
    """
    if name.endswith(".parquet"):
        file = Path(name).expanduser()
        if not file.is_file():
            remedy = f"name a Parquet in the RL schema, or one of {', '.join(paths.names('eval'))}"
            remedy = _built_tests(f"*/{file.name}", data_dir) + remedy
            raise InputError("nothing to evaluate", [Problem(f"{file} is not a file", remedy)])
        return EvalSet(f"{file.absolute().parent.name}-{file.stem}", file, is_own=True)
    declared = paths.find_option("eval", name)
    if declared is None:
        what = f"eval={name} is not a set of conf/eval"
        remedy = f"{one_of(name, paths.names('eval'))}; or FILE.parquet, or a yaml file that declares a set"
        remedy = _built_tests(f"{escape(name)}/test.parquet", data_dir) + remedy
        raise InputError("nothing to evaluate", [Problem(what, remedy)])
    config = load_eval_config(declared, keys or {})
    if "mix" in config:  # the rows of a mix that its training splits do not share
        choice = mixes.choose_mix(config["mix"], str(data_dir), any_source=reward is not None)
        with mixes.data_errors_as_input(f"mix {config['mix']} cannot be built"):
            mixes.build_mix(choice, reward=reward)
        file = choice.folder / "test.parquet"
    else:
        mix, folder = as_mix(config), data_dir / "eval" / config["name"]
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(paths.beside(folder, ".lock")):
            if not data_prep.is_complete(folder, mix):
                log.info(f"building the questions of {config['name']} in {folder}")
                _build_questions(mix, folder, reward)
        file = folder / "test.parquet"
    return EvalSet(config["name"], file, config.get("sampling", {}), config.get("stratify"))


def _built_tests(pattern: str, data_dir: Path) -> str:
    """The files below the folder of the data that may be meant, as the beginning of a remedy; "" without one."""
    found = sorted(data_dir.glob(pattern))[:3]
    return f"did you mean {' or '.join(f'eval={file}' for file in found)}? " if found else ""


def load_eval_config(file: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """A file that declares a set of questions with some of its keys replaced, as plain data.

    Raises:
        InputError: the file is not readable yaml, or names neither a source nor a mix.
    """
    title = f"eval={file.stem} cannot be read"
    try:
        node = OmegaConf.load(file)
    except (YAMLError, OmegaConfBaseException) as error:
        raise InputError(title, [Problem(f"{file}: {' '.join(str(error).split())}", "correct the yaml")]) from None
    if not isinstance(node, DictConfig) or not {"mix", "source"} & {*node}:
        remedy = (
            "write source: {from: NAME, split: test} and prompt: {user: ..., answer: ...}, as the files of conf/eval do"
        )
        raise InputError(title, [Problem(f"{file} has neither source: nor mix:", remedy)])
    for key, value in keys.items():
        OmegaConf.update(node, "source.path" if key == "path" else key, value, force_add=True)
    return {"name": file.stem, **OmegaConf.to_container(node, resolve=True)}  # type: ignore[dict-item]


def as_mix(config: dict[str, Any]) -> dict[str, Any]:
    """The mix that holds an evaluation's source whole, as its test split."""
    name = config["name"]
    return {"name": name, "seed": 0, "sources": {name: config["source"]}, "prompts": {"default": config["prompt"]},
            "splits": {"test": {"rows": "all", "sources": {name: 1}}}}  # fmt: skip


def _build_questions(mix: dict[str, Any], folder: Path, reward: OwnReward | None) -> None:
    try:
        data_prep.build(mix, folder, any_source=reward is not None)
    except data_prep.DataError as error:
        problems = [
            Problem(f"{each.where}: {each.what}", each.remedy.replace("give path: FILE", "add path=FILE"))
            for each in error.problems
        ]
        raise InputError(f"eval={mix['name']} cannot be built", problems) from None


def read_questions(file: Path, any_source: bool = False) -> list[Question]:
    """Every question of a Parquet in the RL schema, in its order.

    The id is `extra_info.id`, else `extra_info.index`, else the number of the row.

    Raises:
        InputError: a column is missing, there is no row, a row cannot be asked or graded, an id occurs twice, or (unless
            `any_source`) a data_source has no reward.
    """
    title = f"the questions of {file} cannot be read"
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(title, [Problem(f"it is not a readable Parquet ({error})", "build it again")]) from None
    if missing := [column for column in REQUIRED_COLUMNS if column not in table.column_names]:
        remedy = "questions have the RL schema (docs/data.md): prompt, data_source, reward_model, extra_info"
        raise InputError(title, [Problem(f"it has no column {', '.join(missing)}", remedy)])
    rows = table.to_pylist()
    if problems := [*_find_broken_rows(rows, any_source)] if rows else [Problem("it has no rows", "build it again")]:
        raise InputError(title, problems)
    questions = []
    for number, row in enumerate(rows):
        facts = row.get("extra_info") or {}
        named = next((facts[key] for key in ("id", "index") if facts.get(key) is not None), number)
        truth = (row["reward_model"] or {}).get("ground_truth")
        gold = json.dumps(truth, default=str) if isinstance(truth, list | dict) else str(truth)  # tests may be data
        questions.append(Question(str(named), row["prompt"], row["data_source"], gold, facts, truth))
    if twice := len(questions) - len({question.id for question in questions}):
        problems.append(Problem(f"{twice} rows share their extra_info.id with another", "give every row its own id"))
    for source in sorted({question.data_source for question in questions}) if not any_source else ():
        try:
            reward_fns.resolve(source)
        except reward_fns.UnknownSource as error:
            problems.append(Problem(f"data_source {source!r} has no reward", str(error)))
    if problems:
        raise InputError(title, problems)
    return questions


SHOWN_ROWS = 20


def _find_broken_rows(rows: Sequence[Mapping[str, Any]], any_gold: bool) -> Iterator[Problem]:
    """One problem for each fault that rows have, with their numbers: such a row would end an engine, or be graded as wrong.

    With `any_gold` a reward of the user's own grades, which may take any gold, or none.
    """
    alike = defaultdict(list)
    for number, row in enumerate(rows):
        if fault := _prompt_fault(row["prompt"]) or ("" if any_gold else _gold_fault(row)):
            alike[fault].append(number)
    for fault, numbers in alike.items():
        named = ", ".join(map(str, numbers[:SHOWN_ROWS]))
        more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
        what = f"{fault} in {len(numbers)} of {len(rows)} rows: {named}{more} (counted from 0)"
        yield Problem(what, "drop these rows, or repair them")


def _prompt_fault(messages: Any) -> str:
    """Why a prompt cannot be asked, in the words of the preflight; "" if it can."""
    if not isinstance(messages, list):
        return "prompt is null" if messages is None else f"prompt is {type(messages).__name__}, not a list of messages"
    if not messages:
        return "prompt has no turn"
    contents = [turn.get("content") if isinstance(turn, dict) else None for turn in messages]
    if None in contents:
        return "prompt has a turn whose content is null"
    return "" if any(str(content).strip() for content in contents) else "prompt asks nothing: its turns are blank"


def _gold_fault(row: Mapping[str, Any]) -> str:
    """Why an answer to a row cannot be graded; "" if it can, or where its data_source has no grader."""
    source, truth = row["data_source"], (row["reward_model"] or {}).get("ground_truth")
    if source is None:
        return "data_source is null"
    if truth is None or (isinstance(truth, str) and not truth.strip()):
        return f"ground_truth is {'null' if truth is None else 'empty'}"
    try:
        grader, _ = reward_fns.resolve(source)
    except reward_fns.UnknownSource:
        return ""
    if grader is grade_math and not is_plain(truth):
        return f"ground_truth is {type(truth).__name__}, not a text or a number"
    return ""


STRATA_COLUMNS = ("subject", "level", "difficulty", "source")  # of extra_info, the first that has several values
MOST_STRATA = 12  # strata; a number with more values is cut into fifths


def choose_column(questions: Sequence[Question], asked: str | None) -> str | None:
    """The column of extra_info (or `data_source`) to stratify by.

    It is the one asked for, else the first of STRATA_COLUMNS that has more than one value, else None.

    Raises:
        InputError: no question has the column asked for.
    """
    if asked is None:
        for name in (*STRATA_COLUMNS, "data_source"):
            if len({_question_value(one, name) for one in questions}) > 1:
                return name
        return None
    if all(_question_value(question, asked) is None for question in questions):
        known = sorted({key for question in questions for key in question.facts})
        what = f"stratify={asked} is not a column of extra_info with a value"
        raise InputError("no sample can be drawn", [Problem(what, f"there are: {', '.join(known)}, data_source")])
    return asked


def assign_strata(questions: Sequence[Question], by: str | None) -> list[str | None]:
    values = [_question_value(question, by) if by else None for question in questions]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(set(numbers)) <= MOST_STRATA:
        return [None if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    edges = np.unique(np.quantile(numbers, (0.2, 0.4, 0.6, 0.8)))
    return [str(int(np.searchsorted(edges, v))) if isinstance(v, int | float) else str(v) for v in values]


def stratified_order(questions: Sequence[Question], groups: Sequence[str | None]) -> list[int]:
    """The places of the questions in a random order of which every first part is a stratified sample.

    Each stratum's questions are shuffled and dealt out at even distances from a random start (systematic sampling). The
    randomness is a hash of the ids, so that every evaluation of a set draws the same sample.
    """
    members = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    at: dict[int, float] = {}
    for group, places in members.items():
        start = _hash_fraction(f"stratum {group}")
        for rank, place in enumerate(sorted(places, key=lambda place: _hash_fraction(questions[place].id))):
            at[place] = (rank + start) / len(places)
    return sorted(at, key=lambda place: (at[place], _hash_fraction(questions[place].id)))


def _question_value(question: Question, name: str) -> object:
    return question.data_source if name == "data_source" else question.facts.get(name)


def _hash_fraction(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


SAMPLING: SamplingFields = {"temperature": 0.0, "top_p": 1.0, "k": 1, "max_tokens": 1024, "seed": 0}


@dataclass(frozen=True)
class Job:
    """`model` is a folder or a hub id; `out` is the file of results. `rows` and `seconds` are the budget, None the full set.

    `replicas` None is one engine for each `tensor_parallel` devices; `chat_template` takes the place of the model's own.
    `reward` is one of the user's own, which grades in place of our graders. A score of `right_at` or more is right then.
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
    reward: OwnReward | None = None
    right_at: float | None = None

    def sampler(self) -> Sampler:
        """What answers the questions."""
        drawn: dict[str, Any] = {key: value for key, value in self.sampling.items() if key != "k"}
        return Sampler(self.model, **drawn, log=paths.beside(self.out, ".log"), replicas=self.replicas, seconds=self.seconds,
                       tensor_parallel=self.tensor_parallel, chat_template=self.chat_template)  # fmt: skip


def choose_reward(asked: Evaluate | Synthesize, run: RunFolder | None) -> OwnReward | None:
    """The reward that `reward=` names, else that of the run, as it was when the run was launched. Raises InputError."""
    kept = (
        None
        if asked.reward or not run or not run.plan.exists()
        else own_reward.kept_by_run(own_reward.of_settings(run.read_settings()), run.path)
    )
    return own_reward.read_reward(asked.reward, asked.arguments, default=kept)


def run_lengths(run: RunFolder) -> dict[str, int]:
    """How long the answers are for which a run trained, in tokens: the default for data of the user's own."""
    settings = run.read_settings() if run.plan.exists() else None
    longest = getattr(settings, settings.length_names[-1], None) if settings and settings.length_names else None
    return {"max_tokens": longest} if isinstance(longest, int) else {}


def read_right_at(run: RunFolder | None) -> float | None:
    """The score from which a run declares an answer right; None where it does not."""
    return read_verdicts(run.read_plan(), None, ()).right_at if run and run.plan.exists() else None


def is_graded_by_set(chosen: EvalSet) -> bool:
    """Whether a set of conf/eval has graders of ours for all its rows. By these its figures compare with those of others."""
    if chosen.name not in paths.names("eval"):
        return False
    sources = pq.read_table(chosen.file, columns=["data_source"])["data_source"].unique().to_pylist()
    return all(map(has_grader, sources))


def find_model(name: str) -> str:
    """The folder of a model on this machine, or its id of the hub. An embedded model is built.

    Raises:
        InputError: there is no such model, or a file of its weights is missing or cut short.
    """
    found = naming.find_model(name)
    if Path(found).is_dir() and (problems := preflight.model.check_folder(Path(found))):
        raise InputError(f"{found} cannot answer", problems)
    return found


def find_run(asked: Evaluate | Synthesize) -> RunFolder | None:
    """The run that `run=` names, or `base_model=run:NAME`; None where another model is asked for. Raises InputError."""
    name = asked.run or (asked.base_model or "").removeprefix(naming.RUN_PREFIX)
    return RunFolder.find(name, asked.runs_dir) if name != (asked.base_model or "") else None


def choose_template(file: str | None, run: RunFolder | None, model: str, title: str) -> str | None:
    """The chat template of a file or of a run; None for the model's own.

    Raises:
        InputError: there is no such file, or the model has no template of its own.
    """
    if file is not None:
        if not Path(file).is_file():
            raise InputError(title, [Problem(f"chat_template={file} is not a file", "name a Jinja file")])
        return Path(file).read_text(encoding="utf-8")
    if run and run.plan.exists() and (own := run.read_settings().model.chat_template):
        return str(own)
    if not has_chat_template(model):
        what = f"{model} has no chat template, so it is not known how to ask it"
        raise InputError(title, [Problem(what, "add chat_template=FILE.jinja")])
    return None


def read_job(asked: Evaluate) -> Job:
    """The job that the arguments ask for; builds the questions and an embedded model.

    Raises:
        InputError: the model, the run or the set is not there, or the sampling makes no sense.
    """
    others = own_reward.other_arguments(asked.arguments)
    keys = {key: command_line.plain(value) for key, _, value in (each.partition("=") for each in others)}
    if asked.path:
        keys["path"] = asked.path
    run = find_run(asked)
    reward = choose_reward(asked, run)
    chosen = choose_eval_set(
        str(asked.eval), Path(asked.data_dir).expanduser(), keys, reward
    )  # before a model is built
    if run:
        model, label, folder = str(ensure_weights(run)), run.stage.algorithm(run.read_settings()), run.path / "eval"
    else:
        model = find_model(str(asked.base_model))
        label, folder = "base", Path(asked.runs_dir) / "eval" / Path(model).name
    template = choose_template(asked.chat_template, run, model, Evaluate.TITLE)
    if reward and not asked.reward:
        reward = None if is_graded_by_set(chosen) else reward
        log.info(f"graded by the {f'reward of the run, {reward.word}' if reward else 'set (reward= names another)'}")
    label = asked.label or label
    out = Path(asked.out or folder / f"{label}-{chosen.name}.json").expanduser()
    given = {key: value for key in SAMPLING if (value := getattr(asked, key)) is not None}
    sampling: Any = {**SAMPLING, **chosen.sampling, **(run_lengths(run) if run and chosen.is_own else {}), **given}
    if sampling["k"] > 1 and sampling["temperature"] == 0:
        what = f"k={sampling['k']} with temperature=0 would draw the same answer {sampling['k']} times"
        raise InputError("nothing to sample", [Problem(what, "add temperature=0.8, or leave k out")])
    return Job(model, label, chosen, out, sampling, asked.stratify or chosen.stratify, asked.rows, asked.seconds,
               asked.replicas, asked.tensor_parallel, template, reward, read_right_at(run))  # fmt: skip
