"""The verb `evaluate`: the answers of a model to a set of questions, graded.

The set is one of conf/eval, or a Parquet in the RL schema; `run=ID` takes the newest checkpoint of a run. The whole set is
answered greedily, unless the arguments say otherwise. An evaluation that was killed resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial

from data_prep.manifest import file_sha256
from posttrain_verl.evaluate import comparison, grading, job, sampling
from posttrain_verl.evaluate.job import Job, Question
from posttrain_verl.evaluate.result import FEWEST, SCHEMA, Answer, AnswerLog, Result, write_result
from posttrain_verl.paths import beside
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.verbs import Evaluate


def evaluate_model(asked: Job) -> Result:
    """Answer and grade the questions, and write the file of results; returns what stands in it.

    Answers lie in `<out>.answers.jsonl` as they come. Those of an earlier call with the same model, questions and sampling
    are not asked for again. If all of them are there, no engine starts, and the answers are graded again.

    Raises:
        InputError: the questions cannot be read, programs cannot be isolated on this machine, or the reward fails.
        EngineFailed: an engine ended early. A further call resumes.
    """
    everything = job.read_questions(asked.eval.file, any_source=asked.reward is not None)
    by = job.choose_column(everything, asked.stratify)
    groups = job.assign_strata(everything, by)
    places = job.stratified_order(everything, groups)[: asked.rows]
    wanted = [everything[place] for place in places]
    stratum = {everything[place].id: groups[place] for place in places}
    by_reward = partial(grading.grade_by_reward, right_at=asked.right_at)
    grade_one = partial(by_reward, asked.reward) if asked.reward else grading.grade_answer
    items = sampling.grade_answers(
        _collect_answers(asked, wanted),
        lambda question, answer: grade_one(question, stratum[question.id], answer),
        asked.reward,
    )
    # A time budget leaves some questions without all their answers.
    k = asked.sampling["k"]
    place = {question.id: number for number, question in enumerate(everything)}
    items = [item for group in grading.by_question(items).values() if len(group) == k for item in group]
    items.sort(key=lambda item: (place[item["id"]], item["sample"]))
    used = len({item["id"] for item in items})
    result: Result = {
        "schema": SCHEMA, "model": asked.model, "label": asked.label, "eval": asked.eval.name,
        "questions": str(asked.eval.file), "sampling": asked.sampling, "population": len(everything), "n": used,
        "stratified_by": by if used < len(everything) else None, "noise": used < FEWEST,
        "metrics": grading.compute_metrics(items, k, by_reward=asked.reward is not None),
        "errors": grading.error_counts(items), "items": items,
    }  # fmt: skip
    if asked.reward:
        result["reward"] = asked.reward.fingerprint
    write_result(result, asked.out)
    return result


def _collect_answers(asked: Job, wanted: list[Question]) -> Iterator[tuple[Question, Answer]]:
    """Every answer with its question, those on disk first."""
    sampler = asked.sampler()
    belongs_to = {"schema": SCHEMA, "questions": file_sha256(asked.eval.file), **sampler.identity}
    with AnswerLog(beside(asked.out, ".answers.jsonl"), belongs_to) as log:
        label = f"{asked.label} on {asked.eval.name}"
        yield from sampling.collect_answers(wanted, asked.sampling["k"], log, sampler.generate, label)


def run(given: Evaluate) -> int:
    """The verb without its command line. Raises InputError and EngineFailed."""
    asked = job.read_job(given)
    result = evaluate_model(asked)
    if given.as_json:
        print(json.dumps({key: value for key, value in result.items() if key != "items"} | {"out": str(asked.out)}))
    else:
        comparison.print_evaluation(result, stdout())
        print(f"every answer lies in {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Evaluate, run))
