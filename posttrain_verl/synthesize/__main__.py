"""The verb `synthesize`: answers of a model to the training questions of a mix, of which the right ones become data.

Answers lie in `answers.jsonl` of the folder as they come. A call that was killed resumes there, and another selection of the same
answers starts no engine.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import data_prep
from data_prep.manifest import FILE_NAME
from data_prep.schema import PAIRS, SFT
from posttrain_verl.evaluate import job as evaluating
from posttrain_verl.evaluate import sampling
from posttrain_verl.evaluate.result import SCHEMA, Answer, AnswerLog
from posttrain_verl.synthesize.job import ANSWERS, Job, read_job
from posttrain_verl.synthesize.questions import Asked, HeldOut, leave_out_held_out
from posttrain_verl.synthesize.screening import grade_answer, screen_answers
from posttrain_verl.synthesize.selection import Graded, choose_pairs, choose_solutions, pass_rate
from posttrain_verl.synthesize.write import Selected, remove_leftovers, settings_of, write_set
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed
from posttrain_verl.verbs import Synthesize

TITLE = Synthesize.TITLE


class NothingUsable(WorkFailed):
    """No answer can be shown to a model. Another call would find the same answers."""

    resumes = False


def synthesize_data(job: Job) -> dict[str, Any]:
    """Sample, grade and select, and write the data set; returns its manifest. A finished set of the same job is kept.

    Raises:
        InputError: the questions cannot be read or are held out, the folder holds something else or another call writes into
            it, or the reward fails.
        NothingUsable: no right answer is left, and nothing is written.
        EngineFailed, EndpointFailed: the answers did not all come. A further call resumes.
    """
    with _own_folder(job):
        if not job.force and data_prep.is_complete(job.folder, settings_of(job)):
            log.info(f"{job.folder} holds the finished set; --force asks again")
            return data_prep.read_manifest(job.folder)
        remove_leftovers(job.folder)
        held_out = HeldOut.near(job.questions, job.folder.parent)
        everything = job.questions.read(any_source=job.reward is not None)
        asked, contaminated = leave_out_held_out(everything, held_out, job.questions.file)
        asked = _draw_sample(job, asked)
        tokens: Counter[str] = Counter()
        answers = sampling.grade_answers(
            _counted(_collect_answers(job, asked), tokens),
            lambda one, answer: grade_answer(job, one, answer),
            job.reward,
        )
        place = {each.id: number for number, each in enumerate(asked)}
        answers.sort(key=lambda answer: (place[answer.id], answer.sample))
        answers = screen_answers(job.questions, held_out, asked, answers)
        selected = _select(job, asked, answers, contaminated, tokens["prompt"])
        return write_set(job, selected, held_out)


@contextmanager
def _own_folder(job: Job) -> Iterator[None]:
    """The folder of the job, for this call alone.

    Raises:
        InputError: another call writes into it, or it holds other answers or the build of a mix.
    """
    lock = FileLock(job.folder / ".lock", timeout=0)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        remedy = "wait until it ends, or give this one a folder of its own: name=NAME"
        raise InputError(TITLE, [Problem(f"another call writes into {job.folder}", remedy)]) from None
    except OSError as error:
        what = f"{job.folder} cannot be written ({error.strerror})"
        raise InputError(TITLE, [Problem(what, "give another posttrain.data_dir")]) from None
    try:
        _refuse_other_content(job)
        yield
    finally:
        lock.release()


def _refuse_other_content(job: Job) -> None:
    """Answers of another teacher or sampling cost too much to be written over without a word."""
    other_name = "give this one a folder of its own: name=NAME"
    if not job.answers.is_file():
        if (job.folder / FILE_NAME).is_file():
            is_own = "teacher" in data_prep.read_manifest(job.folder)
            what = f"data whose {ANSWERS} is gone" if is_own else "data that synthesize did not write"
            raise InputError(TITLE, [Problem(f"{job.folder} holds {what}", other_name)])
        return
    if job.force:
        job.answers.unlink()
        return
    with job.answers.open(encoding="utf-8", errors="replace") as file:
        head, has_answers = file.readline(), file.readline().endswith("\n")
    if not has_answers:  # a call that ended before its first answer, perhaps at a mistake in its words
        return
    try:
        there = dict(json.loads(head))
    except (ValueError, TypeError):
        what = f"the first line of {job.answers} is damaged, so that nobody knows whose answers these are"
        raise InputError(TITLE, [Problem(what, f"{other_name}; --force drops those answers")]) from None
    mine = json.loads(json.dumps(_belongs_to(job)))
    if differing := sorted(key for key in {*there, *mine} if there.get(key) != mine.get(key)):
        what = f"{job.folder} holds answers of another call, which differs in {', '.join(differing)}"
        raise InputError(TITLE, [Problem(what, f"{other_name}; --force drops those answers")])


def _belongs_to(job: Job) -> dict[str, Any]:
    return {"schema": SCHEMA, "questions": job.questions.sha256, **job.teacher.identity}


def _draw_sample(job: Job, asked: list[Asked]) -> list[Asked]:
    """The questions that are asked, in their order: a stratified sample where `rows` says so."""
    if job.rows is None or job.rows >= len(asked):
        return asked
    questions = [each.question for each in asked]
    groups = evaluating.assign_strata(questions, evaluating.choose_column(questions, job.stratify))
    return [asked[place] for place in sorted(evaluating.stratified_order(questions, groups)[: job.rows])]


def _collect_answers(job: Job, asked: Sequence[Asked]) -> Iterator[tuple[Asked, Answer]]:
    with AnswerLog(job.answers, _belongs_to(job)) as answers:
        yield from sampling.collect_answers(asked, job.n, answers, job.teacher.generate, job.folder.name)


def _counted(answers: Iterator[tuple[Asked, Answer]], tokens: Counter[str]) -> Iterator[tuple[Asked, Answer]]:
    for one, answer in answers:
        tokens["prompt"] += answer.prompt_tokens
        yield one, answer


def _select(
    job: Job, asked: list[Asked], answers: list[Graded], contaminated: dict[str, str], prompt_tokens: int
) -> Selected:
    """What is made of the graded answers. Raises NothingUsable: neither a solution nor a pair."""
    groups: dict[str, list[Graded]] = {each.id: [] for each in asked}
    for answer in answers:
        groups[answer.id].append(answer)
    source = {each.id: each.source for each in asked}
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    solutions: list[Graded] = []
    for name, group in groups.items():
        chosen, reasons = choose_solutions(group, job.rules)
        solutions += sorted(chosen, key=lambda answer: answer.sample) if job.rules.choice == "random" else chosen
        left_out[source[name]] += reasons
    pairs, unpaired = choose_pairs(groups, job.rules) if job.rules.pairs else ([], Counter())
    if not solutions and not pairs:
        raise NothingUsable(_explain_nothing(job, answers, sum(left_out.values(), Counter())))
    rates = {name: pass_rate(name, group) for name, group in groups.items()}
    return Selected(asked, answers, solutions, pairs, rates, left_out, unpaired, contaminated, prompt_tokens)


def _explain_nothing(job: Job, answers: Sequence[Graded], left_out: Counter[str]) -> str:
    """Why no data set is written, with an answer to read and what may help."""
    wrong = [each for each in answers if each.is_right is False]
    cut_off, undecided = sum(each.cut_off for each in answers), sum(each.is_right is None for each in answers)
    without = Counter(each.no_text for each in answers if each.no_text)
    facts = f"{len(wrong)} wrong, {undecided} undecided; {cut_off} of all were cut off"
    if without:
        facts += f"; no text came in {', '.join(f'{count} ({reason})' for reason, count in without.most_common())}"
    if reasons := ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()):
        facts += f"; right ones are left out: {reasons}"
    lines = [f"no answer of {len(answers)} can be used ({facts}): no data set is written"]
    if wrong:
        lines.append(f"  e.g. {wrong[0].id}: {' '.join(wrong[0].text.split())[-200:]!r}")
    longer = "a larger max_tokens, " if cut_off > len(answers) / 2 else ""
    other = (
        "another endpoint.model=, or" if without.total() > len(answers) / 2 else "another model, its chat template, or"
    )
    lines.append(f"  look at {job.answers}; try {longer}{other} easier questions")
    return "\n".join(lines)


def describe_set(folder: Path, manifest: dict[str, Any]) -> str:
    """What a data set holds, in a few lines."""
    answers, pairs = manifest["answers"], manifest["pairs"]
    cost = f", cost {answers['cost']:g}" if "cost" in answers else ""
    lines = [
        f"{folder}",
        f"  {manifest['questions']['asked']} questions, {answers['n']} answers: {answers['right']} right, "
        f"{answers['wrong']} wrong, {answers['undecided']} undecided; {answers['tokens']} tokens{cost}",
    ]
    if without := ", ".join(f"{count} ({reason})" for reason, count in answers.get("no_text", {}).items()):
        lines.append(f"  no text came in {without}: neither right nor wrong")
    for name, entry in manifest["files"].items():
        if "rows" in entry:
            parts = ", ".join(f"{rows} {source}" for source, rows in entry["rows_by_source"].items())
            lines.append(f"  {name:20} {entry['rows']:>8} rows  ({parts})  {entry['sha256'][:12]}")
    if pairs["n"]:
        lengths, sides = pairs["lengths"], ""
        if "shorter" in lengths:  # not in sets of earlier versions
            sides = f"; of {pairs['n']} chosen ones {lengths['longer']} are longer and {lengths['shorter']} shorter"
        lines.append(f"  pairs: chosen {lengths['chosen']:.1f} tokens, rejected {lengths['rejected']:.1f}, mean difference "
                     f"{lengths['difference']:+.1f}{sides}")  # fmt: skip
    if said := ", ".join(f"{count} {reason}" for reason, count in pairs["left_out"].items()):
        lines.append(f"  in no pair: {said}")
    drops = sum((Counter(entry["drops"]) for entry in manifest["sources"].values()), Counter[str]())
    lines.append(f"  in no solution: {', '.join(f'{count} {reason}' for reason, count in drops.items()) or 'none'}")
    if held_out := manifest["questions"]["held_out"]:
        lines.append(f"  {held_out} questions are held out, and were not asked")
    if missing := ", ".join(manifest["not_compared"]):
        lines.append(f"  not compared with {missing}, which are not on this machine (evaluate builds them)")
    for split in (SFT.training_split, PAIRS.training_split):
        if f"{split}.parquet" not in manifest["files"]:
            lines.append(f"  there is no {split}.parquet, since it would have no row")
    if pairs["n"] and f"{PAIRS.validation_split}.parquet" not in manifest["files"]:
        lines.append(f"  there is no {PAIRS.validation_split}.parquet: a larger val= or more rows= hold pairs out")
    return "\n".join(lines)


def run(given: Synthesize) -> int:
    """The verb without its command line. Raises InputError, NothingUsable, EngineFailed and EndpointFailed."""
    job = read_job(given)
    manifest = synthesize_data(job)
    print(json.dumps(manifest | {"folder": str(job.folder)}) if given.as_json else describe_set(job.folder, manifest))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Synthesize, run))
