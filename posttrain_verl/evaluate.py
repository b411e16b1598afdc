"""Evaluate a model: `python -m posttrain_verl.evaluate base_model=NAME|FOLDER eval=NAME|FILE.parquet [key=value ...]`.

`run=ID` takes the newest checkpoint of a run, and exports its weights if that was not done yet. The set is one of conf/eval,
or a Parquet in the RL schema. The whole set is answered greedily unless told otherwise: k=8 temperature=0.8 top_p= max_tokens=
seed= for the sampling, rows=N or seconds=S for a stratified sample. Also: label= stratify=COLUMN path=FILE (the set's rows,
offline) replicas= tensor_parallel= chat_template=FILE posttrain.out=FILE posttrain.data_dir= posttrain.runs_dir=. An evaluation
that was killed goes on where it was.
Exit codes: 0 done, 1 an engine failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

import reward_fns
from posttrain_verl import options, vllm_models
from posttrain_verl.console import stdout
from posttrain_verl.evaluation import grading, job, questions, replicas, show, strata
from posttrain_verl.evaluation.answers import Answer, AnswerLog, fingerprint
from posttrain_verl.evaluation.engine import Work
from posttrain_verl.evaluation.job import Job
from posttrain_verl.evaluation.questions import Question
from posttrain_verl.evaluation.replicas import Layout
from posttrain_verl.evaluation.result import FEWEST, SCHEMA, Item, Result, write
from posttrain_verl.problem import InputError, Problem, blocking, exit_code
from reward_fns.code.sandbox import SandboxUnavailable

AT_ONCE = {True: 64, False: 256}  # answers in an engine at a time: on a CPU, and on a GPU


def evaluate(asked: Job) -> Result:
    """Answer and grade the questions, and write the file of results; returns what stands in it.

    Answers lie in `<out>.answers.jsonl` as they come. Those of an earlier call with the same model, questions and sampling
    are not asked for again, and where all are there no engine starts: the answers are graded anew.

    Raises:
        InputError: the questions cannot be read, or programs cannot be isolated on this machine.
        EngineFailed: an engine ended early. A further call goes on.
    """
    everything = questions.read(asked.eval.file)
    by = strata.column(everything, asked.stratify)
    groups = strata.strata(everything, by)
    places = strata.order(everything, groups)[: asked.rows]
    wanted = [everything[place] for place in places]
    stratum = {everything[place].id: groups[place] for place in places}
    pool = ThreadPoolExecutor(max_workers=8)
    try:
        grades = [pool.submit(grading.graded, question, stratum[question.id], answer)
                  for question, answer in _answers(asked, wanted)]  # fmt: skip
        items = _complete(_results(grades), everything, asked.sampling["k"])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        reward_fns.close()
    result = _result(asked, items, len(everything), by)
    write(result, asked.out)
    return result


def _answers(asked: Job, wanted: list[Question]) -> Iterator[tuple[Question, Answer]]:
    """Every answer with its question: first those that lie on disk, then new ones as they come."""
    by_id = {question.id: question for question in wanted}
    with AnswerLog(asked.out.with_suffix(".answers.jsonl"), _belongs_to(asked, wanted)) as log:
        k = asked.sampling["k"]
        there = [answer for answer in log.done.values() if answer.id in by_id and answer.sample < k]
        yield from ((by_id[answer.id], answer) for answer in there)
        missing = [(one.id, one.messages, [n for n in range(k) if (one.id, n) not in log.done]) for one in wanted]
        missing = [each for each in missing if each[2]]
        if not missing:
            return
        plan = replicas.layout(asked.replicas, asked.tensor_parallel)
        if not plan.on_ray:  # elsewhere vLLM may be another version
            _require_buildable(Path(asked.model))
        with _progress(len(wanted) * k, len(there), asked) as bar:
            tokens = 0
            for answer in replicas.answer(_work(asked, plan, missing), plan, asked.out.with_suffix(".log")):
                log.add(answer)
                tokens += answer.tokens
                bar.set_postfix_str(f"{tokens} tokens", refresh=False)
                bar.update()
                yield by_id[answer.id], answer


def _require_buildable(folder: Path) -> None:
    """Raise InputError where vLLM is known not to have the model's architecture."""
    try:
        found = vllm_models.unbuildable(json.loads((folder / "config.json").read_text()), 0)
    except (OSError, ValueError):  # a model of the hub; and of an unreadable file the engine tells more
        return
    if blocking(found):
        raise InputError(f"vLLM cannot build {folder}", found)


def _belongs_to(asked: Job, wanted: list[Question]) -> dict[str, Any]:
    """What an answer follows from: whatever is in here differs, it is no answer to this question."""
    sampling = {key: asked.sampling[key] for key in ("temperature", "top_p", "max_tokens", "seed")}
    return {"schema": SCHEMA, "model": fingerprint(asked.model), "questions": questions.digest(asked.eval.file),
            "chat_template": asked.chat_template, **sampling}  # fmt: skip


def _work(asked: Job, plan: Layout, missing: list[tuple[str, list[dict[str, str]], list[int]]]) -> Work:
    drawn = asked.sampling
    return Work(asked.model, missing, drawn["temperature"], drawn["top_p"], drawn["max_tokens"], drawn["seed"],
                on_cpu=plan.on_cpu, tensor_parallel=plan.tensor_parallel, seconds=asked.seconds,
                at_once=AT_ONCE[plan.on_cpu], chat_template=asked.chat_template)  # fmt: skip


def _progress(total: int, there: int, asked: Job) -> tqdm[Any]:
    return tqdm(total=total, initial=there, desc=f"{asked.label} on {asked.eval.name}", unit="answer")


def _results(grades: list[Future[Item]]) -> list[Item]:
    try:
        return [grade.result() for grade in grades]
    except SandboxUnavailable as error:
        raise InputError("programs cannot be graded", [Problem(str(error))]) from None


def _complete(items: list[Item], everything: list[Question], k: int) -> list[Item]:
    """The items of the questions that have all their answers, in the order of the set: a time budget leaves some without."""
    place = {question.id: number for number, question in enumerate(everything)}
    kept = [item for group in grading.by_question(items).values() if len(group) == k for item in group]
    return sorted(kept, key=lambda item: (place[item["id"]], item["sample"]))


def _result(asked: Job, items: list[Item], population: int, by: str | None) -> Result:
    used = len({item["id"] for item in items})
    return {
        "schema": SCHEMA, "model": asked.model, "label": asked.label, "eval": asked.eval.name,
        "questions": str(asked.eval.file), "sampling": asked.sampling, "population": population, "n": used,
        "stratified_by": by if used < population else None, "noise": used < FEWEST,
        "metrics": grading.metrics(items, asked.sampling["k"]), "errors": grading.error_counts(items), "items": items,
    }  # fmt: skip


def main() -> int:
    """The verb."""
    parser = options.parser("evaluate", __doc__)
    parser.add_argument("--json", action="store_true", help="print the results without the items as JSON")
    given = parser.parse_intermixed_args()
    goes_on = "the same command goes on with the answers that are there"
    return exit_code(lambda: run(given.words, given.json), as_json=given.json, goes_on=goes_on)


def run(words: list[str], as_json: bool) -> int:
    """The verb without its command line. Raises InputError and EngineFailed."""
    asked = job.read(words, report=lambda line: print(line, file=sys.stderr, flush=True))
    result = evaluate(asked)
    if as_json:
        print(json.dumps({key: value for key, value in result.items() if key != "items"} | {"out": str(asked.out)}))
    else:
        show.evaluation(result, stdout())
        print(f"every answer lies in {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
