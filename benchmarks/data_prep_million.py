"""One million GSM8K-like rows to VeRL's Parquet: this project's build against the same steps written with `datasets`.

    python benchmarks/data_prep_million.py [--rows 1000000] [--baseline-rows 200000]

Steps on both sides: length filter (question and solution of at most 2,000 bytes), exact dedup of the question,
13-gram decontamination of question and solution against an evaluation set, difficulty column (lines of working), chat
messages, VeRL's RL row, Parquet. The baseline is `datasets.map/filter/to_parquet` in 2 processes. Each build runs in a
process of its own, which reports seconds and peak memory. Also builds a tenth of the rows: memory should be flat and
time linear. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ["Ada", "Ben", "Cleo", "Dev", "Emma", "Finn", "Gus", "Hana", "Ivo", "Jun"]
THINGS = ["apples", "books", "candles", "drums", "eggs", "flags", "gloves", "hats", "jars", "kites"]
TOKEN = re.compile(r"[0-9a-z\x80-\U0010ffff]+")
N = 13
MOST = 2000


def rows(count: int, seed: int, exam: pa.Table | None = None) -> pa.Table:
    """GSM8K-like rows, about 45 words of question and 30 of solution; one in ten repeats an earlier row, and one in a
    hundred begins with a question of `exam`."""
    rng = random.Random(seed)
    leaks = exam["question"].to_pylist() if exam else []
    made: list[dict[str, object]] = []
    for number in range(count):
        if made and rng.random() < 0.1:
            made.append(made[rng.randrange(len(made))])
        else:
            leak = f"{rng.choice(leaks)} " if leaks and number % 100 == 7 else ""
            made.append(row(rng, leak))
    return pa.Table.from_pylist(made)


def row(rng: random.Random, leak: str) -> dict[str, object]:
    name, other = rng.sample(NAMES, 2)
    thing, a, b, c, d = rng.choice(THINGS), *(rng.randint(2, 999) for _ in range(4))
    question = (
        f"{leak}{name} packs {a} boxes with {b} {thing} each for the fair in town number {d}. On the way there {name} "
        f"meets {other}, who asks for {c} of the {thing} and carries them home in a large paper bag. How many {thing} "
        f"does {name} have left to sell when the fair opens on Saturday morning?"
    )
    solution = (
        f"{name} packs {a}*{b}={a * b} {thing} in all for the fair.\nAfter giving {c} of the {thing} to {other} there "
        f"are {a * b}-{c}={a * b - c} {thing} left to sell at the fair.\n#### {a * b - c}"
    )
    return {"question": question, "solution": solution, "answer": str(a * b - c), "steps": 2}


def exam_rows(count: int) -> pa.Table:
    """An evaluation set of the size of GSM8K test, in words of its own."""
    rng = random.Random(9)
    vocabulary = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(2, 9))) for _ in range(4000)]

    def text() -> str:
        return " ".join(rng.choices(vocabulary, k=46))

    return pa.Table.from_pylist(
        [{"question": text(), "solution": text(), "answer": "1", "steps": 2} for _ in range(count)]
    )


def ours(data: Path, exam: Path, out: Path) -> int:
    """The build of this project, with the filters that the comparison does not have switched off."""
    import data_prep

    columns = {"question": "question", "answer": "answer", "solution": "solution", "difficulty": "steps"}
    files = {name: {"from": "columns", "path": str(path), "columns": columns, "data_source": "math/own"}
             for name, path in (("exam", exam), ("own", data))}  # fmt: skip
    config = {
        "sources": files,
        "filters": {"all": False, "too_long": {"prompt": MOST, "solution": MOST}},
        "decontaminate": {"against": ["exam"], "ngrams": [N], "drop": N},
        "splits": {"rl_train": {"sources": {"own": 1}}},
    }
    return int(data_prep.build(config, out)["files"]["rl_train.parquet"]["rows"])


def baseline(data: Path, exam: Path, out: Path) -> int:
    """The same steps as row functions of `datasets`."""
    import datasets

    banned = {
        gram
        for row in pq.read_table(exam).to_pylist()
        for text in (row["question"], row["solution"])
        for gram in grams(text)
    }
    table = datasets.load_dataset("parquet", data_files=str(data), split="train", cache_dir=str(out / "cache"))
    table = table.filter(
        lambda row: max(len(row[key].encode()) for key in ("question", "solution")) <= MOST, num_proc=2
    )
    seen: set[str] = set()

    def fresh(row: dict[str, str]) -> bool:
        key = " ".join(row["question"].split())
        return not (key in seen or seen.add(key))

    table = table.filter(fresh)  # one process: the set of what was seen cannot be shared
    table = table.filter(
        lambda row: not any(gram in banned for key in ("question", "solution") for gram in grams(row[key])), num_proc=2
    )
    table = table.map(verl_row, with_indices=True, remove_columns=table.column_names, num_proc=2)
    table.to_parquet(str(out / "rl_train.parquet"))
    return len(table)


def grams(text: str) -> list[str]:
    words = TOKEN.findall(text.lower())
    return [" ".join(words[i : i + N]) for i in range(len(words) - N + 1)]


def verl_row(row: dict[str, object], index: int) -> dict[str, object]:
    return {
        "data_source": "math/own",
        "prompt": [{"role": "user", "content": row["question"]}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": row["answer"]},
        "extra_info": {
            "split": "rl_train",
            "index": index,
            "id": f"own/{index}",
            "difficulty": float(str(row["steps"])),
        },
    }


SIDES: dict[str, Callable[[Path, Path, Path], int]] = {"ours": ours, "baseline": baseline}


def measure(side: str, data: Path, exam: Path) -> dict[str, float]:
    """One build in this process: seconds, seconds of processor time of it and its children, rows out, and the peak
    memory in MB of this process and of its largest child."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        kept = SIDES[side](data, exam, Path(out))
        seconds = time.perf_counter() - started
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(each.ru_utime + each.ru_stime for each in (mine, children))
    # Not ru_maxrss: that of a new process begins with its parent's.
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "rows_out": kept,
        "peak_mb": round(peak / 1024), "peak_child_mb": round(children.ru_maxrss / 1024),
    }  # fmt: skip


def child(side: str, data: Path, exam: Path, count: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--exam", str(exam)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"rows_in": count, **found, "rows_per_second": round(count / found["seconds"])}


def compare(count: int, baseline_count: int) -> dict[str, Any]:
    """Both sides and both sizes."""
    with tempfile.TemporaryDirectory() as folder:
        exam = Path(folder) / "exam.parquet"
        questions = exam_rows(1319)
        pq.write_table(questions, exam)
        data = {}
        for size in {count, count // 10, baseline_count}:
            data[size] = Path(folder) / f"{size}.parquet"
            pq.write_table(rows(size, 1, questions), data[size])
        result: dict[str, Any] = {
            "ours": child("ours", data[count], exam, count),
            "ours_tenth": child("ours", data[count // 10], exam, count // 10),
            "baseline": child("baseline", data[baseline_count], exam, baseline_count),
        }
    for clock in ("seconds", "cpu_seconds"):
        ours, theirs = (result[side]["rows_in"] / result[side][clock] for side in ("ours", "baseline"))
        result[f"times_faster_by_{clock}"] = round(ours / theirs, 2)
    return result


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--baseline-rows", type=int, default=200_000)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--exam", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    found = measure(given.side, given.data, given.exam) if given.side else compare(given.rows, given.baseline_rows)
    print(json.dumps(found, indent=None if given.side else 2))


if __name__ == "__main__":
    main()
