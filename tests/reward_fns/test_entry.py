"""The entry point: routing, keys, options, and what VeRL's event loop sees."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reward_fns
from reward_fns import registry
from reward_fns.grades import Grade
from reward_fns.math.grader import verifier_pool

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("source", "response", "gold"),
    [
        ("openai/gsm8k", "#### 72", "72"),
        ("embedded/chain_sum", "#### 72", "72"),
        ("reasoning_gym/gsm_symbolic", "#### 72", "72"),
        ("HuggingFaceH4/MATH-500", r"\boxed{72}", "72"),
        ("DigitalLearningGmbH/MATH-lighteval", r"\boxed{72}", "72"),
        ("math_dapo", r"\boxed{72}", "72"),
        ("aime2024", r"\boxed{72}", "72"),
    ],
)
def test_gold_scores_one_under_its_source(source, response, gold):
    assert reward_fns.grade(source, response, gold)["score"] == 1.0


def test_unknown_source_lists_the_known_ones():
    with pytest.raises(
        reward_fns.UnknownSource, match=r"'nonsense/set'.*openai/gsm8k.*embedded/\*.*reward=FILE.py:NAME"
    ):
        reward_fns.grade("nonsense/set", "#### 1", "1")


def test_registered_source_is_routed(monkeypatch):
    monkeypatch.setattr(registry, "_exact", dict(registry._exact))
    reward_fns.register("mine", lambda *_, bonus=0.0: Grade(score=bonus), bonus=0.5)
    assert reward_fns.grade("mine", "", "")["score"] == 0.5


@pytest.mark.parametrize("response", ["", "#### 1", r"\boxed{x}", "<think>", "\ud800", "a\nb\x00" * 300])
def test_keys_and_types_are_the_same_for_any_response(response):
    grade = reward_fns.grade("openai/gsm8k", response, "1")
    assert tuple(grade) == reward_fns.KEYS
    assert all(isinstance(value, float) for key, value in grade.items() if key != "pred")
    assert grade["pred"].encode() is not None and len(grade["pred"]) <= 400 and "\n" not in grade["pred"]


def test_option_of_no_grader_is_an_error():
    with pytest.raises(ValueError, match="stricct"):
        reward_fns.grade("openai/gsm8k", "#### 1", "1", stricct=True)


def test_option_of_another_grader_is_ignored():
    assert reward_fns.grade("openai/gsm8k", "#### 1", "1", partial=True)["score"] == 1.0


def test_empty_gold_is_an_error():
    with pytest.raises(ValueError, match="gold answer is empty"):
        reward_fns.grade("openai/gsm8k", "#### 1", " ")


def test_verl_awaits_it():
    assert inspect.iscoroutinefunction(reward_fns.compute_score)
    score = asyncio.run(reward_fns.compute_score("openai/gsm8k", "#### 1", "1", {"index": 0}))
    assert score["score"] == 1.0


def test_verl_loads_it_by_name():
    loader = pytest.importorskip("verl.utils.import_utils")
    assert loader.load_extern_object("pkg://reward_fns", "compute_score") is reward_fns.compute_score


def test_import_is_light():
    heavy = "sympy math_verify torch ray verl transformers numpy"
    program = f"import sys, reward_fns; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SPINNING = r"\boxed{\prod_{k=1}^{3} 9^{9^{9^9}}}"  # sympy does not come back


def symbolic(i):
    """A response of value `i` + 6 that math-verify has to judge."""
    return rf"\boxed{{{i}+\sum_{{k=1}}^{{3}} k}}"


async def loop_delays(stop):
    """Seconds by which the event loop came back late, one entry per 5 ms tick."""
    late = []
    while not stop.is_set():
        begin = time.perf_counter()
        await asyncio.sleep(0.005)
        late.append(time.perf_counter() - begin - 0.005)
    return late


def test_a_spinning_verifier_does_not_block_the_loop_and_costs_its_limit():
    async def run():
        stop = asyncio.Event()
        ticks = asyncio.create_task(loop_delays(stop))
        begin = time.perf_counter()
        hostile = [reward_fns.compute_score("math", SPINNING, "5", timeout=1.0) for _ in range(2)]
        honest = [reward_fns.compute_score("math", symbolic(i), f"{i + 6}", timeout=10.0) for i in range(40)]
        grades = await asyncio.gather(*hostile, *honest)
        seconds = time.perf_counter() - begin
        stop.set()
        return grades, seconds, sorted(await ticks)

    reward_fns.grade("math", symbolic(1), "7", timeout=60.0)  # start the workers outside the measurement
    grades, seconds, late = asyncio.run(run())
    assert [g["verifier_error"] for g in grades[:2]] == [1.0, 1.0]
    assert [g["score"] for g in grades[2:]] == [1.0] * 40
    assert seconds < 6.0
    assert late[len(late) // 2] < 0.05


def test_a_killed_worker_is_replaced():
    assert reward_fns.grade("math", SPINNING, "5", timeout=0.3)["verifier_error"] == 1.0
    assert reward_fns.grade("math", symbolic(2), "8", timeout=10.0)["score"] == 1.0


def test_a_worker_that_was_ended_while_it_was_idle_is_replaced():
    """By the kernel, for want of memory, say."""
    reward_fns.grade("math", symbolic(8), "14", timeout=60.0)
    idle = list(verifier_pool()._idle)
    for worker in idle:
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.channel.recv(1) == b""  # it is gone
    assert reward_fns.grade("math", symbolic(9), "15", timeout=60.0)["score"] == 1.0
    assert idle and not set(map(id, idle)) & set(map(id, verifier_pool()._idle))


def descriptors():
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.usefixtures("sandboxed")
def test_ten_thousand_calls_leak_nothing():
    psutil = pytest.importorskip("psutil")

    def mixed(i):
        if i % 50 == 0:
            return reward_fns.grade("mbpp", "def f(x): return x", '{"test_list": ["assert f(1) == 1"]}')
        return reward_fns.grade("math", symbolic(i % 7) if i % 5 == 0 else f"#### {i}", "7")

    for i in range(200):
        mixed(i)
    before = descriptors(), len(psutil.Process().children(recursive=True))
    for i in range(10_000):
        mixed(i)
    after = descriptors(), len(psutil.Process().children(recursive=True))
    assert after[0] <= before[0] + 4 and after[1] <= before[1] + 4


def test_close_ends_every_process():
    psutil = pytest.importorskip("psutil")
    reward_fns.grade("math", symbolic(3), "9", timeout=60.0)
    reward_fns.close()
    time.sleep(0.5)
    mine = [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]
    assert [p for p in mine if "reward_fns" in " ".join(p.cmdline())] == []


def test_a_forked_child_has_workers_of_its_own():
    assert reward_fns.grade("math", symbolic(4), "10", timeout=60.0)["score"] == 1.0
    child = os.fork()
    if child == 0:
        grade = reward_fns.grade("math", symbolic(5), "11", timeout=60.0)
        reward_fns.close()
        os._exit(int(grade["score"] != 1.0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reward_fns.grade("math", symbolic(6), "12", timeout=60.0)["score"] == 1.0
