"""Tokens a second of `synthesize` against `evaluate`, and the share of grading: `benchmarks/synthesize.py [ITEMS [MODEL]]`.

SmolLM2-135M in fp32, the same generated sums under the same chat template, 4 samples at temperature 1, at most 160 tokens.
Both sides grade with our grader, and call half of all answers right, so that there is something to select whatever the model
is. Each side is a process of its own, in the order evaluate, synthesize, evaluate, so that a drift of the machine shows.
Printed: tokens a second of tokenizing and generating and of the whole command. Then the seconds that grading, filters,
selection and writing take when all answers are there, as a share of the seconds of generating.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from peers import Side

import data_prep
from posttrain_verl import base_models
from posttrain_verl.synthesize.__main__ import synthesize_data
from posttrain_verl.synthesize.job import ENGINE_LOG, read_job
from posttrain_verl.terminal.command_line import read
from posttrain_verl.verbs import Synthesize

SAMPLES, MAX_TOKENS = 4, 160
REWARD = """
import reward_fns

def score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    reward_fns.grade(data_source, solution_str, ground_truth, extra_info)
    right = float(len(solution_str) % 2)
    return {"score": right, "acc": right}
"""


def build_questions(folder: Path, items: int) -> Path:
    """Sums of small numbers that reasoning-gym makes offline, as the training split of a mix."""
    source = {"from": "reasoning_gym", "family": "chain_sum", "size": 4 * items, "seed": 5,
              "params": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}}  # fmt: skip
    mix = {"name": "q", "sources": {"q": source}, "splits": {"rl_train": {"rows": items, "sources": {"q": 1}}},
           "prompts": {"default": {"user": "{question}\nReason step by step."}},
           "filters": {"missing_final_answer": False, "disagreeing_solution": False}}  # fmt: skip
    data_prep.build(mix, folder / "q")
    return folder / "q" / "rl_train.parquet"


def run_verb(verb: str, arguments: Sequence[str], log: Path) -> Side:
    """One command; what its engine says of its tokens and seconds is read from its log."""
    variables = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", f"posttrain_verl.{verb}", *arguments], env=variables, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    whole = time.monotonic() - began
    last = [line for line in log.read_text().splitlines() if line.startswith("answered: ")][-1]
    facts = json.loads(last.removeprefix("answered: "))
    return Side(facts["tokens"], facts["seconds"], whole)


def main() -> None:
    items = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), base_models.ensure_model(sys.argv[2] if len(sys.argv) > 2 else "smollm2_135m")
        file = build_questions(folder, items)
        (folder / "reward.py").write_text(REWARD)
        shared = [
            f"base_model={model}",
            f"reward={folder}/reward.py:score",
            "temperature=1",
            "seed=0",
            f"max_tokens={MAX_TOKENS}",
        ]
        asked = [*shared, f"mix={file}", f"n={SAMPLES}", "name=own", f"posttrain.data_dir={folder}"]

        def evaluate(out: Path) -> Side:
            arguments = [*shared, f"eval={file}", f"k={SAMPLES}", f"posttrain.out={out}"]
            return run_verb("evaluate", arguments, out.with_suffix(".log"))

        first = evaluate(folder / "first.json")
        mine = run_verb("synthesize", asked, folder / "own" / ENGINE_LOG)
        second = evaluate(folder / "second.json")
        began = time.monotonic()
        manifest = synthesize_data(
            read_job(read(Synthesize, [*asked, "keep=1"]))
        )  # another selection of the same answers
        selecting = time.monotonic() - began
    for label, side in (("evaluate", first), ("synthesize", mine), ("evaluate", second)):
        print(f"{label}: {side}")
    theirs = (first.tokens + second.tokens) / (first.generating + second.generating)
    answers = manifest["answers"]
    print(f"ratio {mine.tokens / mine.generating / theirs:.2f} generating, {items} items, {answers['n']} answers, "
          f"{answers['right']} right")  # fmt: skip
    print(f"grading, filters, selection and writing: {selecting:.2f} s, {100 * selecting / mine.generating:.1f} % of generating, "
          f"{answers['n'] / selecting:.0f} answers/s")  # fmt: skip


if __name__ == "__main__":
    main()
