"""The questions of an evaluation: a name of conf/eval, built once into Parquet, or any Parquet in the RL schema."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from omegaconf import OmegaConf

import data_prep
import reward_fns
from posttrain_verl import paths, prep
from posttrain_verl.problem import InputError, Problem, one_of

Report = Callable[[str], object]
COLUMNS = ("prompt", "data_source", "reward_model")


@dataclass(frozen=True)
class EvalSet:
    """A set to evaluate on: its name, its Parquet, and the defaults of conf/eval for what the command line leaves out."""

    name: str
    file: Path
    sampling: dict[str, Any] = field(default_factory=dict)
    stratify: str | None = None


@dataclass(frozen=True)
class Question:
    """One row: `id` names it in every evaluation, `messages` is the prompt, `facts` is the row's extra_info."""

    id: str
    messages: list[dict[str, str]]
    data_source: str
    gold: str
    facts: dict[str, Any]

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.messages)


def names() -> list[str]:
    """The evaluations of conf/eval, sorted."""
    return sorted(file.stem for file in (paths.conf_dir() / "eval").glob("*.yaml"))


def choose(word: str, data_dir: Path, keys: dict[str, Any] | None = None, report: Report = print) -> EvalSet:
    """The set that `eval=word` means; one of conf/eval is built first if its Parquet is not there.

    `keys` replace keys of the file (`{"source.path": "test.jsonl"}`; `path` is short for that one).

    Raises:
        InputError: no such name or file, or the set cannot be built, e.g. since the hub cannot be reached.
    """
    if word.endswith(".parquet"):
        return _parquet(Path(word).expanduser())
    if word not in names():
        what = f"eval={word} is no set of conf/eval"
        raise InputError("nothing to evaluate", [Problem(what, f"{one_of(word, names())}; or FILE.parquet")])
    config = load(word, keys or {})
    file = _mix(config, data_dir) if "mix" in config else _built(config, data_dir, report)
    return EvalSet(word, file, config.get("sampling", {}), config.get("stratify"))


def load(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """One file of conf/eval with some of its keys replaced, as plain data."""
    node = OmegaConf.load(paths.conf_dir() / "eval" / f"{name}.yaml")
    for key, value in keys.items():
        OmegaConf.update(node, "source.path" if key == "path" else key, value, force_add=True)
    return {"name": name, **OmegaConf.to_container(node, resolve=True)}  # type: ignore[dict-item]


def as_mix(config: dict[str, Any]) -> dict[str, Any]:
    """The mix that holds an evaluation's source whole, as its test split."""
    name = config["name"]
    splits = {"test": {"rows": "all", "sources": {name: 1}}}
    return {"name": name, "seed": 0, "sources": {name: config["source"]}, "prompts": {"default": config["prompt"]},
            "splits": splits}  # fmt: skip


def _built(config: dict[str, Any], data_dir: Path, report: Report) -> Path:
    mix, folder = as_mix(config), data_dir / "eval" / config["name"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not data_prep.is_complete(folder, mix):
            report(f"building the questions of {config['name']} in {folder}")
            try:
                data_prep.build(mix, folder)
            except data_prep.DataError as error:
                shown = [Problem(f"{each.where}: {each.what}", _for_path(each.remedy)) for each in error.problems]
                raise InputError(f"eval={config['name']} cannot be built", shown) from None
    return folder / "test.parquet"


def _for_path(remedy: str) -> str:
    return remedy.replace("give path: FILE", "add path=FILE")


def _mix(config: dict[str, Any], data_dir: Path) -> Path:
    """The test split of a mix: rows that its training splits do not share."""
    choice = prep.choose([f"mix={config['mix']}", f"posttrain.data_dir={data_dir}"])
    with prep.told(f"mix {config['mix']} cannot be built"):
        prep.build(choice)
    return choice.folder / "test.parquet"


def _parquet(file: Path) -> EvalSet:
    if not file.is_file():
        remedy = f"name a Parquet in the RL schema, or one of {', '.join(names())}"
        raise InputError("nothing to evaluate", [Problem(f"{file} is no file", remedy)])
    return EvalSet(f"{file.absolute().parent.name}-{file.stem}", file)


def read(file: Path) -> list[Question]:
    """Every question of a Parquet in the RL schema, in its order.

    The id is `extra_info.id`, else `extra_info.index`, else the number of the row.

    Raises:
        InputError: a column is missing, there is no row, an id stands twice, or a data_source has no reward.
    """
    title = f"{file} cannot be evaluated"
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(title, [Problem(f"it is no readable Parquet ({error})", "build it again")]) from None
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        remedy = "an evaluation reads the RL schema (docs/data.md): prompt, data_source, reward_model, extra_info"
        raise InputError(title, [Problem(f"it has no column {', '.join(missing)}", remedy)])
    questions = [_question(row, number) for number, row in enumerate(table.to_pylist())]
    if problems := list(_faults(questions)):
        raise InputError(title, problems)
    return questions


def digest(file: Path) -> str:
    """Hex sha256 of a set's Parquet."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _question(row: dict[str, Any], number: int) -> Question:
    facts = row.get("extra_info") or {}
    named = next((facts[key] for key in ("id", "index") if facts.get(key) is not None), number)
    gold = str(row["reward_model"]["ground_truth"])
    return Question(str(named), row["prompt"], row["data_source"], gold, facts)


def _faults(questions: list[Question]) -> list[Problem]:
    if not questions:
        return [Problem("it has no rows", "build it again")]
    problems = []
    ids = [question.id for question in questions]
    if twice := len(ids) - len(set(ids)):
        problems.append(Problem(f"{twice} rows share their extra_info.id with another", "give every row its own id"))
    for source in sorted({question.data_source for question in questions}):
        try:
            reward_fns.resolve(source)
        except reward_fns.UnknownSource as error:
            problems.append(Problem(f"data_source {source!r} has no reward", str(error)))
    return problems
