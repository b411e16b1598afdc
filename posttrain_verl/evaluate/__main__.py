"""The verb `evaluate`: the answers of a model to a set of questions, graded.

The set is one of conf/eval, or a Parquet in the RL schema; `run=ID` takes the newest checkpoint of a run. The whole set is
answered greedily, unless the arguments say otherwise. An evaluation that was killed resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import reward_fns
from data_prep.manifest import file_sha256
from posttrain_verl.evaluate import comparison, grading, job, replicas
from posttrain_verl.evaluate.engine import Work
from posttrain_verl.evaluate.job import Job, Question
from posttrain_verl.evaluate.result import FEWEST, SCHEMA, Answer, AnswerLog, Result, model_fingerprint, write_result
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import counted_progress, stdout
from posttrain_verl.terminal.problem import InputError, Problem, blocking
from posttrain_verl.verbs import Evaluate
from posttrain_verl.verl import vllm_models
from reward_fns.code.sandbox import SandboxUnavailable
from reward_fns.own import RewardError

AT_ONCE = {True: 64, False: 256}  # answers in an engine at a time: on a CPU, and on a GPU


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
    pool = ThreadPoolExecutor(max_workers=8)
    try:
        if asked.reward:
            asked.reward.check_signature()  # before an engine starts
        grades = [
            pool.submit(grade_one, question, stratum[question.id], answer)
            for question, answer in _collect_answers(asked, wanted)
        ]
        items = [grade.result() for grade in grades]
    except SandboxUnavailable as error:
        raise InputError("programs cannot be graded", [Problem(str(error))]) from None
    except RewardError as error:
        remedy = "correct the reward; the same command grades the answers that are there"
        raise InputError("the answers cannot be graded", [Problem(f"the reward: {error}", remedy)]) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        reward_fns.close()
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
    """Every answer with its question: first those on disk, then new ones as they come."""
    by_id = {question.id: question for question in wanted}
    k = asked.sampling["k"]
    drawn: dict[str, Any] = {key: asked.sampling[key] for key in ("temperature", "top_p", "max_tokens", "seed")}
    # Answers on disk are of use only if all of this is the same.
    belongs_to = {"schema": SCHEMA, "model": model_fingerprint(asked.model), "questions": file_sha256(asked.eval.file),
                  "chat_template": asked.chat_template, **drawn}  # fmt: skip
    with AnswerLog(asked.out.with_suffix(".answers.jsonl"), belongs_to) as log:
        there = [answer for answer in log.done.values() if answer.id in by_id and answer.sample < k]
        yield from ((by_id[answer.id], answer) for answer in there)
        missing = [(one.id, one.messages, [n for n in range(k) if (one.id, n) not in log.done]) for one in wanted]
        missing = [each for each in missing if each[2]]
        if not missing:
            return
        plan = replicas.plan_layout(asked.replicas, asked.tensor_parallel)
        if not plan.on_ray:  # elsewhere vLLM may be another version
            with suppress(OSError, ValueError):  # a model of the hub; and the engine says more about an unreadable file
                found = vllm_models.find_unbuildable(json.loads(Path(asked.model, "config.json").read_text()), 0)
                if blocking(found):
                    raise InputError(f"vLLM cannot build {asked.model}", found)
        work = Work(asked.model, missing, **drawn, on_cpu=plan.on_cpu, tensor_parallel=plan.tensor_parallel,
                    seconds=asked.seconds, at_once=AT_ONCE[plan.on_cpu], chat_template=asked.chat_template)  # fmt: skip
        what = f"{asked.label} on {asked.eval.name}"
        with counted_progress(what, len(wanted) * k, len(there), "answer") as count:
            tokens = 0
            for answer in replicas.stream_answers(work, plan, asked.out.with_suffix(".log")):
                log.add(answer)
                tokens += answer.tokens
                count(f"{tokens} tokens")
                yield by_id[answer.id], answer


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
