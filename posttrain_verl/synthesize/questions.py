"""The questions that are asked: the training questions of a mix, or a Parquet in the RL schema, and which stay out.

A question is asked with the messages of its row. It is compared and written by its bare text, which is what the prompt of the
mix stands around. Held out are the test split, the validation splits and every set of questions that `evaluate` has built: a
file of such questions is refused by its name, and a question by its text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import data_prep
import reward_fns
from data_prep import fingerprint, repeats
from data_prep.manifest import file_sha256
from data_prep.mix import Limits, Mix, PromptSpec
from data_prep.schema import EVALUATION, ITEM, RL, TEST, row_kind, split_names
from data_prep.sources import KINDS
from posttrain_verl import mixes, paths
from posttrain_verl.evaluate.job import Question, load_eval_config, read_questions
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Synthesize
from reward_fns.code.grader import grade_code
from reward_fns.own import OwnReward

TITLE = Synthesize.TITLE
HELD_OUT_SHARE = 0.5  # a file with more held-out questions than this is a held-out set under another name
NGRAMS = (8, 13)  # as mixes compare with evaluation sets
BATCH_ROWS = 512  # hashing needs some thirty times the memory of the texts


@dataclass(frozen=True)
class Asked:
    """A question with its bare `text` and its `ability`."""

    question: Question
    text: str
    ability: str

    @property
    def id(self) -> str:
        return self.question.id

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.question.messages

    @property
    def gold(self) -> str | None:
        """The gold answer; None where a reward of the user's own needs none."""
        return None if self.question.truth is None else self.question.gold

    @property
    def source(self) -> str:
        """The source of the mix that it is from, else its data_source."""
        return str(self.question.facts.get("source") or self.question.data_source)


@dataclass(frozen=True)
class Questions:
    """A file of questions. `manifest` is what stands beside it, and `mix` the mix of that; None and {} without one."""

    file: Path
    mix: Mix | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside_manifest(cls, file: Path) -> Questions:
        """A file with the manifest beside it, if there is one."""
        try:
            manifest = data_prep.read_manifest(file.parent)
            return cls(file, data_prep.parse(manifest["mix"], any_source=True), manifest)
        except (data_prep.DataError, KeyError):
            return cls(file)

    @property
    def name(self) -> str:
        """The name of the mix, else that of the file."""
        return self.mix.name if self.mix else self.file.stem

    @functools.cached_property
    def sha256(self) -> str:
        return file_sha256(self.file)

    def prompt_for(self, ability: str) -> PromptSpec | None:
        """The prompt that stands around questions of an ability; None where nobody says."""
        return self.mix.prompt_for(ability) if self.mix else None

    @property
    def limits(self) -> Limits:
        """The lengths that the mix allows."""
        return self.mix.filters.too_long if self.mix else Limits()

    @property
    def switches(self) -> dict[str, Any]:
        """The row filters that the mix switches on and off."""
        return self.mix.filters.named() if self.mix else {}

    def bare_text(self, messages: Sequence[Mapping[str, str]], ability: str) -> str:
        """What the user asks, without the prompt of the mix around it."""
        text = "\n".join(turn["content"] for turn in messages if turn["role"] == "user")
        prompt = self.prompt_for(ability)
        before, after = prompt.user.split("{question}") if prompt else ("", "")
        is_rendered = text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)
        return text[len(before) : len(text) - len(after)] if is_rendered else text

    def read(self, any_source: bool) -> list[Asked]:
        """The questions in their order. Raises InputError, as `evaluate` does."""
        asked = []
        for each in read_questions(self.file, any_source):
            ability = "code" if _is_code(each.data_source) else "math"
            asked.append(Asked(each, self.bare_text(each.messages, ability), ability))
        return asked


@functools.cache
def _is_code(data_source: str) -> bool:
    try:
        return reward_fns.resolve(data_source)[0] is grade_code
    except reward_fns.UnknownSource:
        return False


def find_questions(name: str, data_dir: Path, reward: OwnReward | None) -> Questions:
    """The questions that `mix=` names; the mix is built if it is not there.

    Raises:
        InputError: there is no such mix or file, the mix has no training questions for RL, or these are held out.
    """
    if name.endswith(".parquet"):
        file = Path(name).expanduser().absolute()
        if not file.is_file():
            remedy = "name a Parquet in the RL schema, or a mix: mix=NAME"
            raise InputError(TITLE, [Problem(f"{file} is not a file", remedy)])
        found = Questions.beside_manifest(file)
    else:
        if paths.find_option("mix", name) is None and name in paths.names("eval"):
            remedy = f"name a mix: {', '.join(paths.names('mix'))}"
            raise InputError(TITLE, [Problem(f"mix={name} is an evaluation set, which stays out of training", remedy)])
        choice = mixes.choose_mix(name, str(data_dir), any_source=reward is not None)
        if RL.training_split not in choice.config["splits"]:
            what = f"the mix {choice.config['name']} has no split {RL.training_split}, whose questions are asked"
            raise InputError(TITLE, [Problem(what, "add it to the mix, or name a Parquet: mix=FILE.parquet")])
        if not data_prep.is_complete(choice.folder, choice.config):  # one that is there may have been approved
            with mixes.data_errors_as_input(f"mix {choice.config['name']} cannot be built"):
                mixes.build_mix(choice, reward=reward)
        found = Questions.beside_manifest((choice.folder / f"{RL.training_split}.parquet").absolute())
    if held_out := name_held_out(found.file):
        raise InputError(TITLE, [Problem(f"{found.file} is held out: {held_out}", "ask training questions: mix=NAME")])
    return found


def name_held_out(file: Path) -> str:
    """Why a file is held out, by its name and those that its rows give; "" if it is not."""
    held_out = _held_out_names()
    if file.stem in held_out:
        return f"it is a split {file.stem}"
    if file.parent.parent.name == EVALUATION and file.parent.name in paths.names("eval"):
        return f"it is the evaluation set {file.parent.name}"
    try:
        facts = pq.read_table(file, columns=["extra_info"])["extra_info"].to_pylist()
    except (
        OSError,
        ValueError,
        pa.ArrowException,
    ):  # no such column; whoever reads the rows says what is wrong with them
        return ""
    said = {str((each or {}).get("split")) for each in facts} & set(held_out)
    if said:
        return f"rows say that they are of the split {sorted(said)[0]}"
    sources = {str((each or {}).get("source")) for each in facts}
    only = [name for name in sorted(sources) if name in KINDS and KINDS[name].uses == (EVALUATION,)]
    return f"rows are of {only[0]}, which serves evaluation only" if only else ""


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out questions that are on this machine: the keys of their texts, their n-grams, and what they are made of."""

    name: str
    keys: np.ndarray
    index: repeats.EvalSet
    sources: Mapping[str, Any]


class HeldOut:
    """All questions that are held out on this machine, and what was found to overlap with them."""

    def __init__(self, sets: Sequence[HeldOutSet]):
        self.sets = sets
        self.detector = repeats.Detector([each.index for each in sets], NGRAMS, max(NGRAMS))

    @classmethod
    def near(cls, questions: Questions, data_dir: Path) -> HeldOut:
        """The evaluation sets and test splits of a folder of data and of that of the mix, and the held-out splits beside the
        questions."""
        beside = [questions.file.parent / f"{name}.parquet" for name in _held_out_names()]
        homes = {data_dir, questions.file.parent.parent} if questions.manifest else {data_dir}
        patterns = (f"{EVALUATION}/*/{TEST}.parquet", f"*/{TEST}.parquet")
        tests = [file for home in homes for pattern in patterns for file in home.glob(pattern)]
        files = sorted({file.absolute() for file in (*beside, *tests) if file.is_file()})
        return cls([found for file in files if (found := _index_set(file))])

    def find(self, ids: Sequence[str], texts: Sequence[str], solutions: Sequence[str] | None = None) -> dict[str, str]:
        """The rows that share text with a held-out question or solution, by id, with what they share."""
        found: dict[str, str] = {}
        for first in range(0, len(ids) if self.sets else 0, BATCH_ROWS):
            part = slice(first, first + BATCH_ROWS)
            batch = item_batch(ids[part], texts[part], solutions[part] if solutions else None)
            keys = fingerprint.row_keys(batch["question"])
            overlaps = self.detector.check(batch)
            for each in self.sets:  # also questions of a few words, which have no n-gram
                for row in np.flatnonzero(np.isin(keys, each.keys)).tolist():
                    overlaps.longest[each.name][row] = max(NGRAMS)
                    overlaps.spans[each.name, row] = ("question", 0, 10**6)
            for row, detail in self.detector.record(batch, overlaps).items():
                found[ids[first + row]] = detail
        return found

    def report(self) -> dict[str, Any]:
        """The overlap with each set, as the manifest of a mix has it."""
        return {each.name: each.index.report() for each in self.sets}

    def not_compared(self, sources: Mapping[str, Any], overlap: Mapping[str, Any]) -> list[str]:
        """The evaluations of conf/eval that are not on this machine, and that the mix was not held against, either.

        `overlap` and `sources` are what the manifest of the mix says.
        """
        known = {each.name for each in self.sets}
        against = [{"from": name, **(sources.get(name) or {})} for name in overlap]
        missing = []
        for name in paths.names("eval"):
            file = paths.find_option("eval", name)
            config = load_eval_config(file, {}) if file else {}
            wanted = config.get("source", {})
            same = [
                each
                for each in against
                if (each["from"], each.get("split")) == (wanted.get("from"), wanted.get("split"))
            ]
            if not same and not known & {f"{EVALUATION}/{name}", f"{config.get('mix')}/{TEST}"}:
                missing.append(name)
        return missing

    def mix_sources(self) -> dict[str, Any]:
        """What made the sets, by name, as the sources of a mix."""
        return {each.name: each.sources for each in self.sets if each.sources}


def _held_out_names() -> list[str]:
    return [TEST, *dict.fromkeys(row_kind(name).validation_split for name in split_names())]


def _index_set(file: Path) -> HeldOutSet | None:
    """Read a Parquet of held-out rows; None where it has no questions. A set that `evaluate` built is named as an evaluation."""
    questions, kind = Questions.beside_manifest(file), row_kind(file.stem)
    try:
        rows = pq.read_table(file, columns=[*kind.shown, "ability"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        log.warning(f"warning: nothing is compared with {file}: {' '.join(str(error).split())[:100]}")
        return None
    texts = [questions.bare_text(kind.conversation(row), row["ability"]) for row in rows]
    parts = [texts[at : at + BATCH_ROWS] for at in range(0, len(texts), BATCH_ROWS)]
    batches = [item_batch([""] * len(part), part) for part in parts]
    is_evaluation = file.parent.parent.name == EVALUATION
    name = f"{EVALUATION}/{file.parent.name}" if is_evaluation else f"{file.parent.name}/{file.stem}"
    declared: Mapping[str, Any] = questions.manifest.get("mix", {}).get("sources", {}) if is_evaluation else {}
    source = {"from": file.parent.name, **(next(iter(declared.values())) or {})} if declared else {}
    keys = [np.empty(0, np.uint64), *(fingerprint.row_keys(batch["question"]) for batch in batches)]
    return HeldOutSet(name, np.concatenate(keys), repeats.index_eval_set(name, batches, NGRAMS), source)


def item_batch(ids: Sequence[str], questions: Sequence[str], solutions: Sequence[str] | None = None,
               answers: Sequence[str | None] | None = None) -> pa.RecordBatch:  # fmt: skip
    """Items of data_prep with these parts."""
    given: dict[str, Iterable[Any]] = {
        "id": ids,
        "question": questions,
        "solution": solutions or [],
        "answer": answers or [],
    }
    columns = [pa.array(values, field.type) if (values := given.get(field.name)) else pa.nulls(len(ids), field.type)
               for field in ITEM]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=ITEM)


def leave_out_held_out(asked: Sequence[Asked], held_out: HeldOut, file: Path) -> tuple[list[Asked], dict[str, str]]:
    """The questions that are not held out, and the others by id with what they share.

    Raises:
        InputError: most of them are held out.
    """
    found = held_out.find([each.id for each in asked], [each.text for each in asked])
    if len(found) > HELD_OUT_SHARE * len(asked):
        what = f"{len(found)} of {len(asked)} questions of {file} are held out: the first {next(iter(found.values()))}"
        raise InputError(TITLE, [Problem(what, "ask training questions: mix=NAME")])
    return [each for each in asked if each.id not in found], found
