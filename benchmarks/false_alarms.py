"""Does the watch let healthy runs live? `python benchmarks/false_alarms.py [CONDITION ...] [--runs N]`; `--list` names them.

Starts real runs of the tiny model (VeRL, vLLM and Ray on the CPU) as a user does, each under a condition in which a healthy
run looks odd, says how each ended, and ends with a table; the exit code is 1 if any was stopped. `--out FILE` gets each
result as a line of JSON, `--keep FOLDER` keeps the run folders. All of it takes about 45 minutes on two idle cores. Linux;
several conditions need root, and what the machine cannot give makes a condition skipped, never passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from false_alarms_parts.conditions import CONDITIONS
from false_alarms_parts.trial import RL, SFT, Result, Skipped, Trial, lines_of

# The watch's limits on silence, made small so that a minute shows what hours would. `busy`, which conf/watch/default.yaml may
# not know yet, is left as it is: what only computes here does so for a minute. `starting` is above what the warm Python's imports
# take on a busy machine.
SILENCE = {
    "slow disk": {"seconds": 10},
    "suspended": {"seconds": 30, "starting": 60},
    "stopped": {"seconds": 30, "starting": 60},
    "late start": {"seconds": 20, "starting": 60},
    "long step": {"seconds": 20},
    "long computed step": {"seconds": 20},
    "slow reward": {"seconds": 10},
    "rotated log": {"seconds": 10, "starting": 60},
}
TINY = {
    RL: ["data.train_batch_size=4", "data.max_prompt_length=48", "data.max_response_length=16",
         "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4",
         "trainer.total_training_steps=3"],
    SFT: ["data.train_batch_size=8", "data.max_length=96", "trainer.total_training_steps=6"],
}  # fmt: skip
REWARD = """
import os, subprocess, sys, threading, time

lock, calls = threading.Lock(), 0

def compute_score(data_source, solution_str, ground_truth, **_):
    global calls
    with lock:  # one after the other, as a judge with one slot answers
        calls += 1
        {body}
    text = solution_str.encode()
    return {{"score": sum(text) / (256 * max(1, len(text)))}}
"""
SECONDS = 900  # a plain run takes about 60; what takes longer than this is ended, and counts as stopped
LOOK_SECONDS = 0.5
NOT_OURS = ("POSTTRAIN_", "XDG_", "HF_", "VLLM_", "RAY_", "TORCH", "TRITON_")  # would lead out of the trial's home


def attempt(condition: str, recipe: str, number: int, folder: Path) -> Result:
    """One run under the condition."""
    own = folder / f"{''.join(letter if letter.isalnum() else '_' for letter in condition)}_{number}"
    own.mkdir(parents=True)
    trial = Trial(recipe, number, own, home=folder / "home", runs=own / "runs")
    began = time.monotonic()
    try:
        with CONDITIONS[condition][0](trial):
            code = launch(condition, trial)
            seconds = time.monotonic() - began
            events = [json.loads(line) for line in lines_of(trial.run.events)]
    except Skipped as reason:
        return Result(condition, recipe, "skipped", proof=str(reason))
    said: dict[str, list[str]] = {"stop": [], "warn": [], "info": []}
    for event in events:
        said[event["level"]].append(f"{event['rule']}: {event['saw']}")
    if code and not said["stop"]:
        said["stop"] = [f"exit code {code}: {' '.join(lines_of(own / 'output')[-1:])}"]
    state = "stopped" if said["stop"] else "done"
    return Result(condition, recipe, state, round(seconds, 1), said["stop"], said["warn"], trial.proof)


def launch(condition: str, trial: Trial) -> int:
    """Launch and tick until it has ended; the exit code."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    variables |= {"HOME": str(trial.home), **trial.variables}
    until = time.monotonic() + SECONDS
    with started(command(condition, trial), variables, trial.folder / "output") as process:
        while process.poll() is None and time.monotonic() < until:
            trial.tick()
            time.sleep(LOOK_SECONDS)
    return process.returncode


@contextmanager
def started(words: list[str], variables: dict[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=variables, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # it ends all that it started; a background job may ignore SIGINT
            process.wait(timeout=120)


def command(condition: str, trial: Trial) -> list[str]:
    words = ["base_model=tiny", "mix=embedded", f"posttrain.runs_dir={trial.runs}", "posttrain.run_id=it",
             f"posttrain.data_dir={trial.home}/data", "trainer.save_freq=2", "trainer.test_freq=-1"]  # fmt: skip
    if trial.recipe == RL:
        reward = trial.folder / "reward.py"
        reward.write_text(REWARD.format(body=trial.reward))
        words.append(f"reward.custom_reward_function.path={reward}")
    words += [f"posttrain.watch.silence.{name}={value}" for name, value in SILENCE.get(condition, {}).items()]
    named = {word.split("=")[0] for word in trial.words}
    words = [word for word in [*words, *TINY[trial.recipe]] if word.split("=")[0] not in named]
    launcher = [sys.executable, "-m", "posttrain_verl.launch", f"recipe={trial.recipe}"]
    return [*trial.prefix, *launcher, *words, *trial.words]


def table(results: list[Result]) -> str:
    lines = ["condition            runs done stops warnings  longest  note"]
    for name in dict.fromkeys(one.condition for one in results):
        of = [one for one in results if one.condition == name]
        ran = [one for one in of if one.state != "skipped"]
        done = sum(one.state == "done" for one in ran)
        warnings = sum(len(one.warnings) for one in ran)
        longest = max((one.seconds for one in ran), default=0.0)
        note = "; ".join(one.proof for one in ran) if ran else f"SKIPPED: {of[0].proof}"
        lines.append(f"{name:20s}{len(ran):5d}{done:5d}{len(ran) - done:6d}{warnings:9d}{longest:7.0f} s  {note}")
    return "\n".join(lines)


def chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conditions", nargs="*", metavar="CONDITION", help="all of them, if none is given")
    parser.add_argument("--runs", type=int, help="of each condition, in place of its own number")
    parser.add_argument("--list", action="store_true", help="name the conditions")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="append each result as a line of JSON")
    parser.add_argument("--keep", type=Path, help="work in this new folder and keep it")
    given = parser.parse_args()
    if unknown := set(given.conditions) - set(CONDITIONS):
        parser.error(f"no such condition: {', '.join(unknown)}; --list names them")
    return given


def show_conditions() -> None:
    for name, (condition, recipes) in CONDITIONS.items():
        print(f"{name:20s}{len(recipes)} runs  {condition.__doc__}")


def run_all(given: argparse.Namespace, folder: Path, results: list[Result]) -> None:
    """Each result is told and written as it comes."""
    for name in given.conditions or CONDITIONS:
        recipes = CONDITIONS[name][1]
        for number in range(given.runs or len(recipes)):
            results.append(attempt(name, recipes[number % len(recipes)], number, folder))
            print(results[-1].line, flush=True)
            with given.out.open("a") as out:
                out.write(json.dumps(asdict(results[-1])) + "\n")


def main() -> int:
    given, results = chosen(), list[Result]()
    if given.list:
        show_conditions()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts, swap and groups are undone
    folder = (given.keep or Path(tempfile.mkdtemp(prefix="false-alarms-"))).absolute()
    (folder / "home").mkdir(parents=True, exist_ok=True)
    try:
        run_all(given, folder, results)
    finally:
        print("\n" + table(results))
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return int(any(one.state == "stopped" for one in results))


if __name__ == "__main__":
    sys.exit(main())
