"""A step of preference optimization against TRL's DPOTrainer on the same pairs: `python benchmarks/dpo_vs_trl.py`.

The tiny model in fp32 takes one optimizer step over 8 pairs, for the losses sigmoid, ipo and sigmoid_norm, with and
without LoRA, in micro batches of one pair, of four, and (ours) of 160 tokens, on one rank and on two. Loss, mean margin
and every gradient must agree to 1e-5 of TRL's. Then the numbers of TRL become tests/verl/dpo_golden.json, which a test
compares with ours without TRL.

TRL is installed into an environment of its own (benchmarks/.peers/trl-dpo) at the first call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from dpo_step import REQUIREMENTS
from peers import ensure_environment

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/verl/dpo_golden.json"
RANKS = (1, 2)
AGREES = 1e-5

sys.path.insert(0, str(ROOT / "tests/verl"))
import pair_step  # noqa: E402


def run_peer(folder: Path) -> dict[str, Any]:
    """What TRL measures of each case."""
    python = ensure_environment("trl-dpo", REQUIREMENTS)
    side = Path(__file__).with_name("dpo_vs_trl_peer.py")
    given = [json.dumps(pair_step.LOSSES), json.dumps(pair_step.MICRO_BATCHES), str(pair_step.PAIRS)]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, side, folder, *given], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   env=variables | {"HF_HUB_OFFLINE": "1"})  # fmt: skip
    return torch.load(folder / "theirs")


def compare(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """The relative differences of a case: of the loss, the margin, and the gradient that differs most."""
    if mine["gradients"].keys() != theirs["gradients"].keys():
        raise SystemExit(f"other parameters: {sorted(mine['gradients'].keys() ^ theirs['gradients'].keys())}")
    numbers = {name: abs(mine[name] / theirs[name] - 1) for name in ("loss", "margin")}
    gradients = [float((mine["gradients"][name] - theirs["gradients"][name]).norm() / theirs["gradients"][name].norm())
                 for name in theirs["gradients"]]  # fmt: skip
    return numbers | {"gradients": max(gradients)}


def main() -> None:
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair_step.make_case(folder)
        theirs = run_peer(folder)
        for ranks in RANKS:
            mine = torch.load(pair_step.start_ranks(folder, ranks))
            for case, measured in mine.items():
                peer = case.replace(f"/{pair_step.DYNAMIC}", f"/{pair_step.MICRO_BATCHES[-1]}")
                found = compare(measured, theirs[peer])
                worst = max(worst, *found.values())
                print(f"{case}, {ranks} rank(s): " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    print(f"the largest relative difference is {worst:.1e}")
    if worst > AGREES:
        raise SystemExit("they do not agree")
    last = f"/{pair_step.MICRO_BATCHES[-1]}"  # its micro batches differ by rounding alone
    whole = {case: pair_step.summarize(measured) for case, measured in theirs.items() if case.endswith(last)}
    GOLDEN.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
