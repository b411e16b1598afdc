"""What keeps a right answer from being shown to a model: the row filters of data_prep, its length, and text that is held out.

An answer is judged as the solution of its question, as it would be in a mix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import filters
from data_prep.filters import Uses
from data_prep.reading import token_counter
from data_prep.schema import SFT
from data_prep.sources import SourceSpec
from posttrain_verl.evaluate import grading
from posttrain_verl.evaluate.result import Answer
from posttrain_verl.synthesize.job import Job
from posttrain_verl.synthesize.questions import BATCH_ROWS, Asked, HeldOut, Questions, item_batch
from posttrain_verl.synthesize.selection import Graded
from posttrain_verl.terminal.problem import InputError, Problem


def grade_answer(job: Job, asked: Asked, answer: Answer) -> Graded:
    """One answer with its verdict. Blocks on the verifier; may be called from threads.

    Raises:
        RewardError: the reward fails; InputError: it does not say what is right.
    """
    if answer.no_text:  # which says nothing of what the model knows
        return Graded(
            answer.id, answer.sample, answer.text, answer.tokens, None, answer.truncated, no_text=answer.no_text
        )
    if job.reward:
        item: Mapping[str, Any] = grading.grade_by_reward(job.reward, asked.question, None, answer, job.right_at)
    else:
        item = grading.grade_answer(asked.question, None, answer)
    if "acc" not in item:
        what = f"{job.reward.shown if job.reward else 'the reward'} gives a score and no acc: nobody says which answers are right"
        raise InputError("no answer can be chosen", [Problem(what, "add right_at=SCORE, or return acc, too")])
    is_right = None if item.get("verifier_error") else bool(item["acc"] >= 1)
    return Graded(answer.id, answer.sample, answer.text, answer.tokens, is_right, answer.truncated)


def screen_answers(
    questions: Questions, held_out: HeldOut, asked: Sequence[Asked], answers: Sequence[Graded]
) -> list[Graded]:
    """The answers; right ones that must not be shown have a flaw."""
    by_id = {each.id: each for each in asked}
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        if answer.is_right and not answer.cut_off:
            one = by_id[answer.id]
            groups[one.question.data_source, one.ability].append(place)
    screened = list(answers)
    for (data_source, ability), places in groups.items():
        judge = _judge(questions, data_source, ability)
        for first in range(0, len(places), BATCH_ROWS):
            part = places[first : first + BATCH_ROWS]
            rows = [by_id[answers[place].id] for place in part]
            names = [str(place) for place in part]
            texts, solutions = [each.text for each in rows], [answers[place].text for place in part]
            batch = item_batch(names, texts, solutions, [each.gold for each in rows])
            flaws = judge(batch) | {int(name): ("contaminated", detail) for name, detail
                                    in held_out.find(names, texts, solutions).items()}  # fmt: skip
            for place, (flaw, detail) in flaws.items():
                screened[place] = replace(answers[place], flaw=flaw, detail=detail)
    return screened


def _judge(questions: Questions, data_source: str, ability: str) -> partial[dict[int, tuple[str, str]]]:
    """A function from items to the reasons and details of those that a filter drops, by the number that is their id."""
    prompt, limits = questions.prompt_for(ability), questions.limits
    uses = Uses({SFT.name: SFT.parts(writes_gold=False)}, asked=prompt.asked if prompt else ())
    spec = SourceSpec.model_validate(
        {"<name>": data_source, "from": "synthesized", "data_source": data_source, "ability": ability}
    )
    return partial(
        _find_flaws, filters.choose_filters(questions.switches), spec, uses, limits.solution, limits.tokenizer
    )


def _find_flaws(
    chosen: tuple[filters.Filter, ...],
    spec: SourceSpec,
    uses: Uses,
    longest: int | None,
    tokenizer: str,
    items: pa.RecordBatch,
) -> dict[int, tuple[str, str]]:
    verdict = filters.judge_batch(items, chosen, spec, uses)
    found = {row: (filters.REASONS[verdict.reason[row]], verdict.details[row]) for row in verdict.details}
    if longest:
        lengths = token_counter(tokenizer)(items["solution"])
        for row in np.flatnonzero(lengths > longest).tolist():
            found.setdefault(row, ("too_long", f"{lengths[row]} tokens of solution, limit {longest}"))
    return {int(items["id"][row].as_py()): reason for row, reason in found.items()}
