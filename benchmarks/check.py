"""How long `check` and `--cfg job` take for every recipe: `python benchmarks/check.py [hardware=8xh100]`.

Each is a process of its own, as a user starts it. The aims: check under 5 s, --cfg job under 2 s. Exit code 1 if one is missed.
"""

from __future__ import annotations

import subprocess
import sys
import time

from posttrain_verl.paths import names

LIMITS = {"check": 5.0, "--cfg job": 2.0}


def seconds(recipe: str, hardware: str, *flags: str) -> float:
    """Wall time of one command; a launch that check refuses (exit code 2, no data here) is as good as any."""
    command = [sys.executable, "-m", "posttrain_verl.check", f"recipe={recipe}", f"hardware={hardware}", *flags]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr)
    return time.perf_counter() - started


def main() -> int:
    hardware = next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith("hardware=")), "8xh100")
    worst = dict.fromkeys(LIMITS, 0.0)
    print("| recipe | check, s | --cfg job, s |\n|---|---|---|")
    for recipe in names("recipe"):
        times = {"check": seconds(recipe, hardware), "--cfg job": seconds(recipe, hardware, "--cfg", "job")}
        worst = {key: max(worst[key], times[key]) for key in worst}
        print(f"| {recipe} | {times['check']:.2f} | {times['--cfg job']:.2f} |", flush=True)
    print("the slowest: " + ", ".join(f"{key} {value:.2f} s of {LIMITS[key]:.0f}" for key, value in worst.items()))
    return int(any(worst[key] > LIMITS[key] for key in LIMITS))


if __name__ == "__main__":
    sys.exit(main())
