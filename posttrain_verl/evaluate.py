"""Greedy accuracy of a model on a Parquet of questions: `python -m posttrain_verl.evaluate base_model=M eval=FILE`.

`base_model` is an embedded name or a Hugging Face folder, `eval` a Parquet in the RL schema (prompt, data_source,
reward_model, extra_info.id), such as a mix's test.parquet. Answers come from vLLM under the model's own chat template and
are graded by `reward_fns`; `posttrain.out=FILE` keeps every item with its verdict, so that two evaluations can be paired.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import OmegaConf

import reward_fns
from posttrain_verl import base_models, hardware
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import environment
from posttrain_verl.run.folder import replace
from posttrain_verl.statistics import accuracy

MAX_TOKENS = 512  # of an answer


def evaluate(model: Path, questions: Path, out: Path | None, max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
    """Answer and grade every question; returns the accuracy and the items, and writes them to `out`."""
    rows = pq.read_table(questions).to_pylist()
    answers = generate(model, [row["prompt"] for row in rows], max_tokens)
    items = [graded(row, answer) for row, answer in zip(rows, answers, strict=True)]
    reward_fns.close()
    result = {"model": str(model), "questions": str(questions),
              "accuracy": asdict(accuracy([item["acc"] == 1 for item in items])), "items": items}  # fmt: skip
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace(out, json.dumps(result, indent=1) + "\n")
    return result


def generate(model: Path, prompts: list[list[dict[str, str]]], max_tokens: int) -> list[str]:
    """Greedy answers, one for each list of chat messages."""
    from vllm import LLM, SamplingParams

    engine = LLM(str(model), dtype="float32" if hardware.detect().name == "cpu" else "auto", enforce_eager=True,
                 max_model_len=2048 + max_tokens, enable_prefix_caching=False)  # fmt: skip
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    return [output.outputs[0].text for output in engine.chat(prompts, sampling, use_tqdm=True)]


def graded(row: dict[str, Any], answer: str) -> dict[str, Any]:
    """One item of the result: its id, the answer and the grade."""
    gold = row["reward_model"]["ground_truth"]
    grade = reward_fns.grade(row["data_source"], answer, gold, row["extra_info"])
    return {"id": str(row["extra_info"]["id"]), "answer": answer, "gold": gold, **grade}


def verdicts(out: Path) -> dict[str, bool]:
    """The verdict of each item of a written evaluation, by its id."""
    return {item["id"]: item["acc"] == 1 for item in json.loads(out.read_text())["items"]}


def read_arguments(words: list[str]) -> tuple[str, Path, Path | None, int]:
    """`base_model=`, `eval=`, `posttrain.out=` and `max_tokens=` of the command line.

    Raises:
        InputError: one of the first two is missing, or the file is not there.
    """
    given = OmegaConf.from_dotlist(words)
    problems = [Problem(f"{key}= is missing", f"add {key}=...") for key in ("base_model", "eval") if key not in given]
    if "eval" in given and not Path(given.eval).is_file():
        problems.append(
            Problem(f"{given.eval} is no file", "name a Parquet in the RL schema, e.g. data/embedded/test.parquet")
        )
    if "base_model" in given and not (base_models.is_embedded(given.base_model) or Path(given.base_model).is_dir()):
        problems.append(Problem(f"{given.base_model} is neither an embedded model nor a folder",
                                f"embedded: {', '.join(base_models.EMBEDDED)}"))  # fmt: skip
    if problems:
        raise InputError("nothing to evaluate", problems)
    out = OmegaConf.select(given, "posttrain.out")
    return given.base_model, Path(given.eval), Path(out) if out else None, given.get("max_tokens", MAX_TOKENS)


def main() -> int:
    try:
        name, questions, out, max_tokens = read_arguments(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(
        environment.of_processes(hardware.detect().name, local_model=True), VLLM_ENABLE_V1_MULTIPROCESSING="0"
    )
    result = evaluate(base_models.ensure(name, print), questions, out, max_tokens)
    print(json.dumps(result["accuracy"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
