"""The answers to a list of questions: first those on disk, then new ones as they come; and their grades.

What generates is a function, such as the engines of a `Sampler`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import reward_fns
from posttrain_verl.evaluate import replicas
from posttrain_verl.evaluate.engine import Work
from posttrain_verl.evaluate.result import Answer, AnswerLog, model_fingerprint
from posttrain_verl.own_reward import remedy_of_failure
from posttrain_verl.terminal.console import counted_progress
from posttrain_verl.terminal.problem import InputError, Problem, blocking
from posttrain_verl.verl import vllm_models
from reward_fns.code.sandbox import SandboxUnavailable
from reward_fns.own import OwnReward, RewardError

AT_ONCE = {True: 64, False: 256}  # answers in an engine at a time: on a CPU, and on a GPU
GRADERS = 8  # threads; each waits for a verifier

Missing = list[
    tuple[str, list[dict[str, str]], list[int]]
]  # id, messages and numbers of the samples wanted, by question
Generate = Callable[[Missing], Iterator[Answer]]


class Asked(Protocol):
    """A question as it is asked."""

    @property
    def id(self) -> str: ...

    @property
    def messages(self) -> list[dict[str, str]]: ...


Q = TypeVar("Q", bound=Asked)
G = TypeVar("G")


@dataclass(frozen=True)
class Sampler:
    """A model that vLLM's engines answer with, at `temperature`, `top_p` and `seed`, at most `max_tokens` an answer.

    `seconds` bounds the time in which questions are started; what the engines print goes to `log`.
    """

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    log: Path
    replicas: int | None = None
    tensor_parallel: int = 1
    seconds: float | None = None
    chat_template: str | None = None

    @property
    def drawn(self) -> dict[str, Any]:
        """How an answer is drawn."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens, "seed": self.seed}

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on. Answers on disk are of use only if all of this is the same."""
        return {"model": model_fingerprint(self.model), "chat_template": self.chat_template, **self.drawn}

    def generate(self, missing: Missing) -> Iterator[Answer]:
        """The answers to what is missing, in no order.

        Raises:
            InputError: vLLM cannot build the model, or there is no device for it.
            EngineFailed: an engine ended early. A further call resumes.
        """
        plan = replicas.plan_layout(self.replicas, self.tensor_parallel)
        if not plan.on_ray:  # elsewhere vLLM may be another version
            with suppress(OSError, ValueError):  # a model of the hub; and the engine says more about an unreadable file
                found = vllm_models.find_unbuildable(json.loads(Path(self.model, "config.json").read_text()), 0)
                if blocking(found):
                    raise InputError(f"vLLM cannot build {self.model}", found)
        work = Work(self.model, missing, **self.drawn, on_cpu=plan.on_cpu, tensor_parallel=plan.tensor_parallel,
                    seconds=self.seconds, at_once=AT_ONCE[plan.on_cpu], chat_template=self.chat_template)  # fmt: skip
        yield from replicas.stream_answers(work, plan, self.log)


def collect_answers(
    wanted: Sequence[Q], k: int, log: AnswerLog, generate: Generate, label: str
) -> Iterator[tuple[Q, Answer]]:
    """`k` answers to each question, each with its question: first those in the log, then new ones, which go into it."""
    by_id = {question.id: question for question in wanted}
    there = [answer for answer in log.done.values() if answer.id in by_id and answer.sample < k]
    yield from ((by_id[answer.id], answer) for answer in there)
    missing = [(one.id, one.messages, [n for n in range(k) if (one.id, n) not in log.done]) for one in wanted]
    missing = [each for each in missing if each[2]]
    if not missing:
        return
    with counted_progress(label, len(wanted) * k, len(there), "answer") as count:
        tokens = 0
        for answer in generate(missing):
            log.add(answer)
            tokens += answer.tokens
            count(f"{tokens} tokens")
            yield by_id[answer.id], answer


def grade_answers(
    answers: Iterable[tuple[Q, Answer]], grade_one: Callable[[Q, Answer], G], reward: OwnReward | None
) -> list[G]:
    """The grade of every answer, in the order of the answers. Each is graded while others are generated.

    Raises:
        InputError: programs cannot be isolated on this machine, or the `reward` fails.
    """
    pool = ThreadPoolExecutor(max_workers=GRADERS)
    try:
        if reward:
            reward.check_signature()  # before an engine starts
        grades = [pool.submit(grade_one, question, answer) for question, answer in answers]
        return [grade.result() for grade in grades]
    except SandboxUnavailable as error:
        raise InputError("programs cannot be graded", [Problem(str(error))]) from None
    except RewardError as error:
        problem = Problem(f"the reward: {error}", remedy_of_failure(reward))
        raise InputError("the answers cannot be graded", [problem]) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        reward_fns.close()
