"""The user's own reward, called in a process of its own on golds of the data, on wrong answers and on an empty one.

A problem is what VeRL would end by, or leave answers out for: a file that is not Python, no such function, a signature that
does not fit, an exception, a score that is not a finite number. What may be meant, or may be otherwise where the run
trains, is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from posttrain_verl.preflight import data, machine, rows
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import RewardSettings
from reward_fns import trial
from reward_fns.own import SIGNATURE, OwnReward, describe_call, is_answer, render_gold, wrong_answers
from reward_fns.trial import Case, Fault, Request, Trial

SAMPLED_ROWS = 64  # looked at in a file
GOLDS_OF_SOURCE, MOST_SOURCES = 2, 4  # golds of a source that are always graded; sources
ANY_ANSWER = "The answer is 1."  # where the gold is not one that a model would write, such as tests
SLOW_STEP_SECONDS = 60.0  # of grading the answers of one step
THREADS = 36  # of the executor that VeRL calls a plain function in, on a node of many cores
CATCHING_MANAGERS = ("rate_limited",)  # give an answer 0 where the function raises, and train on
REWARD_MODEL_ARGUMENTS = (
    "reward_router_address",
    "reward_model_tokenizer",
)  # VeRL adds them where it serves a reward model

REMEDIES = {
    "syntax": "correct the file",
    "load": "the file is imported by VeRL's workers from the current folder; correct it, or install what it imports",
    "name": "name one of them: reward=FILE.py:NAME",
    "signature": "VeRL passes its arguments by name, and reward_kwargs beside them; write def {name}{signature}",
    "raised": "VeRL does not train on an answer whose reward raises, and ends where all do: return a score, such as 0.0, for any",
    "result": "return a finite number, or a dict with it under score and, if the answer is right or wrong, 1.0 or 0.0 under acc",
    "dies": "run it alone: posttrain grade FILE.jsonl reward={word}",
    "hangs": "a run waits for each answer's reward; if it waits for a service, give the call a time limit",
}


def check_own_reward(composed: Composed, reward: OwnReward) -> Iterator[Problem]:
    """What a trial of the reward shows."""
    settings = composed.settings.reward
    assert settings is not None
    model = settings.reward_model.get("enable") if settings.reward_model else False
    more = dict.fromkeys(REWARD_MODEL_ARGUMENTS) if model else {}
    always, others = ([], []) if more else sample_cases(composed, settings.source_column)
    cases = always + others
    seen = _try_once(Request(reward, tuple(cases), len(always), more, trial.CALL_SECONDS))
    yield from judge_faults(seen, reward, cases, forgives=_excuse_of(composed, settings))
    yield from judge_scores(seen, reward, cases)
    if settings.manager_name == "remote" and seen.awaited:
        what = f"{reward.shown} is async, and the reward manager remote takes plain functions alone"
        yield Problem(what, f"{settings.override('manager_name', 'naive')}, or def in place of async def")
    if composed.settings.is_readable():
        yield from judge_speed(seen, reward, composed.settings.batch().sequences, settings)


_TRIALS: dict[tuple[Any, ...], Trial] = {}


def _try_once(request: Request) -> Trial:
    """A trial; a launch checks twice, and one of the same file, arguments and rows is not made again."""
    file = request.reward.file
    changed = file.stat().st_mtime_ns if file and file.is_file() else 0
    key = (repr(request), changed, Path.cwd())
    if key not in _TRIALS:
        _TRIALS[key] = trial.try_reward(request)
    return _TRIALS[key]


def sample_cases(composed: Composed, source_column: str) -> tuple[list[Case], list[Case]]:
    """What is always graded: for some rows of each source their gold in a natural form and bare; for one of them wrong answers
    and an empty one, too. And golds of other rows with a wrong answer each, which may be graded. None without data."""
    found: list[Case] = []
    others: list[Case] = []
    golds: dict[str, int] = {}
    files = [file for name in data.DATA_NAMES for file in data.list_readable_files(composed, name)]
    for file in dict.fromkeys(files):
        there = rows.read_schema(file).names
        columns = [name for name in (source_column, "reward_model", "extra_info", "ability") if name in there]
        sampled = rows.sample_rows(file, columns, SAMPLED_ROWS)
        for row, other in zip(sampled, [*sampled[1:], *sampled[:1]], strict=True):
            source, facts = str(row[source_column]), row.get("extra_info") or {}
            gold, mark = _gold_of(row), facts.get("answer_mark")
            is_known = row.get("ability") != "code" and is_answer(gold)
            answers = [render_gold(gold, mark), str(gold)] if is_known else [ANY_ANSWER]
            cases = [Case(source, answer, gold, facts, is_known) for answer in dict.fromkeys(answers)]
            wrong = [
                Case(source, text, gold, facts) for text in wrong_answers(gold, mark, [_gold_of(other)]) if is_known
            ]
            taken = golds.setdefault(source, 0) if source in golds or len(golds) < MOST_SOURCES else GOLDS_OF_SOURCE
            if taken < GOLDS_OF_SOURCE:
                golds[source] += 1
                found += cases + ([] if taken else [*wrong, Case(source, "", gold, facts)])
            else:
                others += [cases[0], *wrong[:1]]
    return found, others


def _gold_of(row: Mapping[str, Any]) -> Any:
    return (row["reward_model"] or {}).get("ground_truth")


def _excuse_of(composed: Composed, settings: RewardSettings) -> str:
    """Why an exception or a wrong score here need not be one where the run trains; "" where it is."""
    if not machine.is_here(composed):
        return "the run trains elsewhere"
    if settings.manager_source != "register":
        return "a reward manager of your own calls it"
    if settings.manager_name in CATCHING_MANAGERS:
        return f"the reward manager {settings.manager_name} gives such an answer 0"
    if composed.settings.rollout and composed.settings.rollout.agent_loop != "single_turn_agent":
        return "an agent loop adds facts of its own"
    return ""


def judge_faults(seen: Trial, reward: OwnReward, cases: Sequence[Case], forgives: str = "") -> Iterator[Problem]:
    """Each kind of fault once, with the answer that showed it. `forgives` says why one that depends on the machine, or on who
    calls, is a warning."""
    told: set[tuple[str, str]] = set()
    for fault in seen.faults:
        if (fault.kind, fault.kind_of_error) in told:
            continue
        told.add((fault.kind, fault.kind_of_error))
        what = f"{reward.shown}: {fault.what}{_answer_of(fault, cases)}"
        remedy = REMEDIES[fault.kind].format(name=reward.name, signature=SIGNATURE, word=reward.word)
        if fault.kind in ("syntax", "name"):
            yield Problem(what, remedy)
        elif fault.is_network:
            yield warning(
                f"{what}: what it asks is out of reach, so its scores were not seen", "start the service before the run"
            )
        elif fault.kind == "hangs":
            yield warning(what, remedy)
        else:
            yield warning(f"{what} ({forgives})", remedy) if forgives else Problem(what, remedy)


def _answer_of(fault: Fault, cases: Sequence[Case]) -> str:
    if fault.call is None:
        return ""
    case = cases[fault.call]
    kinds = ("the gold as answer", "a wrong answer" if is_answer(case.gold) else "an answer", "an empty answer")
    kind = kinds[0 if case.is_gold else 1 if case.response else 2]
    return f", for {kind} of {case.source}: {describe_call(case.response, case.gold)}"


def judge_scores(seen: Trial, reward: OwnReward, cases: Sequence[Case]) -> Iterator[Problem]:
    """Scores from which nothing is learned, and keys that differ. All of it may be meant: a reward of length, or of form."""
    scores = [call.score for call in seen.calls]
    empty = [call.score for call in seen.calls if not cases[call.call].response]
    golds = [call.score for call in seen.calls if cases[call.call].is_gold]
    if not empty or not golds:
        pass
    elif len(set(scores)) == 1:
        what = f"{reward.shown} gives {scores[0]:g} to every answer that was tried: golds, wrong ones and an empty one"
        see = f"see what it reads: posttrain grade FILE.jsonl reward={reward.word}"
        yield warning(what, f"a group whose answers all score the same teaches nothing; {see}")
    elif max(golds) <= min(empty):
        what = f"{reward.shown} gives golds {fmean(golds):.3g}, and an empty answer {fmean(empty):.3g}"
        yield warning(what, "see that it reads an answer as the prompt asks for it, and that more is better")
    if wrong := sorted({call.acc for call in seen.calls if call.acc is not None and not 0 <= call.acc <= 1}):
        what = f"{reward.shown} returns acc={wrong[0]:g}, and an accuracy lies from 0 to 1"
        yield warning(
            what, "return 1.0 for a right answer and 0.0 for a wrong one under acc, and other numbers under other keys"
        )
    if texts := sorted({call.no_number for call in seen.calls if call.no_number}):
        what = f"{reward.shown} returns acc={texts[0]}, which is not a number, so reports know of no accuracy"
        yield warning(what, "return 1.0 for a right answer and 0.0 for a wrong one under acc, or leave acc out")
    if odd := sorted({key for call in seen.calls for key in call.without_mean}):
        what = f"{reward.shown} returns neither a number nor text under {', '.join(odd)}"
        yield warning(
            what,
            "return numbers or text: a validation of VeRL takes means, and a list or dict may end it",
        )
    if len(keys := {tuple(call.keys) for call in seen.calls}) > 1:
        what = f"{reward.shown} returns other keys for other answers: {' or '.join(', '.join(each) for each in sorted(keys))}"
        yield warning(what, "return the same keys always: VeRL's means are over the answers that have one")


def judge_speed(seen: Trial, reward: OwnReward, answers: int, settings: RewardSettings) -> Iterator[Problem]:
    """A warning where grading the `answers` of a step would take long on the workers of the launch. The first call, in which a
    reward may load something, does not count."""
    timed = seen.calls[1:]
    if not timed:
        return
    wall, cpu = (median(getattr(call, name) for call in timed) for name in ("wall", "cpu"))
    waits = THREADS if cpu < wall / 2 else 1  # Python computes in one thread of a process at a time
    workers = max(1, settings.reward_workers or 1)
    step = answers * wall / (workers * waits)
    if step > SLOW_STEP_SECONDS:
        what = f"{reward.shown} takes {wall:.2g} s a call, so {answers} answers a step take {step:.0f} s on {workers} workers"
        yield warning(what, f"make it faster, or raise {settings.key('reward_workers')}")
