"""Rollouts and evaluations as VeRL and our verbs write them: word problems, answers of each kind, and their grades."""

import json
import uuid
from pathlib import Path

import numpy as np

SOURCE = "openai/gsm8k"
THINGS = ("apples", "marbles", "tickets", "stamps", "pages", "litres of paint", "metres of rope", "seats")
NAMES = ("Ada", "Bela", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hana")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, values: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def _vocabulary(n: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    syllables = [a + b for a in "bdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    return np.array(["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(n)])


WORDS = _vocabulary(5000)


def prose(rng: np.random.Generator, words: int) -> str:
    """Made words, the n-th as often as 1/n: gzip makes them about as much smaller as English (three to four times)."""
    return " ".join(WORDS[(len(WORDS) ** rng.random(words)).astype(int) - 1])


def problem(rng: np.random.Generator) -> tuple[str, int, int, int]:
    a, b, c = (int(value) for value in rng.integers(2, 90, 3))
    name, thing = NAMES[rng.integers(len(NAMES))], THINGS[rng.integers(len(THINGS))]
    text = (
        f"{name} has ${a}$ boxes with ${b}$ {thing} each and gives away {c} of them. How many {thing} are left? "
        f"Each box costs $5. Reason step by step and put the answer within \\boxed{{}}."
    )
    return text, a, b, c


def response(rng: np.random.Generator, a: int, b: int, c: int, kind: str, words: int) -> tuple[str, str]:
    """A worked answer and what a grader would read from it."""
    product = a * b + (int(rng.integers(1, 9)) if kind == "logic" else 0)
    answer = product - c + (7 if kind == "knowledge" else 0)
    steps = [
        f"First, there are ${a}$ boxes of ${b}$ each, so\n\\[ {a} \\times {b} = {product}. \\]",
        f"Giving away ${c}$ leaves $\\frac{{{2 * (product - c)}}}{{2}} = {answer}$, that is ${product} - {c} = {answer}$.",
    ]
    for _ in range(words // 24):
        x, y = (int(value) for value in rng.integers(1, 999, 2))
        steps.append(f"Let me check ${x} + {y} = {x + y}$: {prose(rng, 20)}.")
    if kind == "format":
        return "\n\n".join(steps), ""
    return "\n\n".join([*steps, f"So the answer is $\\boxed{{{answer}}}$."]), str(answer)


def grade(kind: str, pred: str) -> dict:
    right = float(kind == "right")
    return {
        "score": right,
        "acc": right,
        "format": float(kind != "format"),
        "answered": float(bool(pred)),
        "verifier_error": float(kind == "verifier"),
        "pred": pred,
    }


def kinds(rng: np.random.Generator, n: int, accuracy: float) -> list[str]:
    wrong = (1 - accuracy) * np.array([0.3, 0.4, 0.28, 0.02])
    return list(rng.choice(["right", "format", "logic", "knowledge", "verifier"], n, p=[accuracy, *wrong]))


def rollouts(folder: Path, step: int, prompts: int, answers: int, accuracy: float, rng, words=20, graded=False) -> None:
    """One file of VeRL: training rollouts carry their score only, validation the whole grade."""
    lines = []
    for _ in range(prompts):
        text, a, b, c = problem(rng)
        uid = uuid.UUID(bytes=rng.bytes(16))
        for n, kind in enumerate(kinds(rng, answers, accuracy)):
            output, pred = response(rng, a, b, c, kind, words)
            parts = grade(kind, pred)
            parts = parts if graded else {"score": parts["score"]}
            lines.append(
                {
                    "input": f"user\n{text}\nassistant\n",
                    "output": output,
                    "gts": str(a * b - c),
                    "step": step,
                    **parts,
                    "uid": f"{uid}_{n}_0",
                }
            )
    write_lines(folder / f"{step}.jsonl", lines)


def evaluation(path: Path, label: str, accuracy: float, n=400, seed=0, hard=1) -> Path:
    """An evaluation file. The same `hard` draws the same questions, and a better model keeps most of what is right."""
    difficulty = np.random.default_rng(hard).random(n)
    questions = np.random.default_rng(hard + 1)
    rng = np.random.default_rng(seed)
    items, errors = [], dict.fromkeys(("format", "logic", "knowledge", "verifier"), 0)
    for i in range(n):
        text, a, b, c = problem(questions)
        kind = "right" if difficulty[i] + rng.normal(0, 0.08) < accuracy else kinds(rng, 1, 0.0)[0]
        output, pred = response(rng, a, b, c, kind, 30)
        if kind != "right":
            errors[kind] += 1
        items.append(
            {
                "id": f"test-{i}",
                "sample": 0,
                "data_source": SOURCE,
                "stratum": None,
                "question": text,
                "answer": output,
                "gold": str(a * b - c),
                "truncated": False,
                "tokens": len(output) // 4,
                **grade(kind, pred),
                "strict_acc": float(kind == "right"),
                "flexible_acc": float(kind == "right"),
                "error": None if kind == "right" else kind,
                "evidence": "first false equation",
            }
        )
    value = sum(item["acc"] for item in items) / n
    half = 1.96 * (value * (1 - value) / n) ** 0.5
    shares = {"value": value, "low": value - half, "high": value + half, "n": n}
    write(
        path,
        {
            "schema": 1,
            "model": label,
            "label": label,
            "eval": "gsm8k",
            "questions": "gsm8k.parquet",
            "population": n,
            "n": n,
            "sampling": {"temperature": 0.0, "k": 1, "max_tokens": 512},
            "stratified_by": None,
            "noise": n < 200,
            "metrics": {"accuracy": shares, "strict_accuracy": shares, "truncated": {**shares, "value": 0.02}},
            "errors": errors,
            "items": items,
        },
    )
    return path
