"""How long `check` takes to look at every row of a set, and its memory: `python benchmarks/check_rows.py [ROWS]`.

Makes a set of each kind with 100,000 rows (or ROWS) and scans it in a process of its own. Seconds are CPU time. Memory is what
the process holds at its peak beyond what its imports take. The aim is under 2 s. Exit code 1 if it is missed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain_verl.preflight import row_scans

LIMIT_SECONDS = 2.0
KINDS = ("rl.parquet", "rl.jsonl", "sft.parquet", "turns.parquet")
WORDS = [f"word{number}" for number in range(500)]


def make_rows(kind: str, count: int) -> Iterator[dict[str, object]]:
    """Rows of RL, of SFT with answers of 300 words, or of SFT with two to twelve turns."""
    dice = random.Random(1)

    def turn(role: str, words: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(dice.choices(WORDS, k=words))}

    for number in range(count):
        if kind.startswith("rl"):
            gold = {"style": "rule", "ground_truth": str(number) if number % 2 else rf"\frac{{{number}}}{{7}}"}
            yield {"data_source": "math/own", "prompt": [turn("user", 40)], "reward_model": gold}
        elif kind.startswith("sft"):
            yield {"messages": [turn("user", 40), turn("assistant", 300)]}
        else:
            yield {
                "messages": [turn(*each) for _ in range(1 + number % 6) for each in (("user", 20), ("assistant", 50))]
            }


def write_rows(file: Path, count: int) -> None:
    found = make_rows(file.name, count)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        pq.write_table(pa.Table.from_pylist(list(found)), file)


def scan(file: Path) -> tuple[float, float]:
    """CPU seconds and MiB of the scans that `check` does of a file."""
    before, started = peak(), time.process_time()
    if file.name.startswith("rl"):
        row_scans.scan_conversations(file, "prompt")
        row_scans.count_nulls(file, "reward_model")
        row_scans.scan_golds(file, "data_source")
    else:
        row_scans.scan_conversations(file, "messages")
    return time.process_time() - started, peak() - before


def peak() -> float:
    """MiB that this process held at most so far (Linux). getrusage would count what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> int:
    if len(sys.argv) > 2:
        print(json.dumps(scan(Path(sys.argv[2]))))
        return 0
    count, slowest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, 0.0
    print(f"| {count} rows | MB | seconds | MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="check-rows-") as folder:
        for kind in KINDS:
            file = Path(folder) / kind
            write_rows(file, count)
            done = subprocess.run([sys.executable, __file__, "scan", file], capture_output=True, text=True, check=True)
            seconds, memory = json.loads(done.stdout)
            print(f"| {kind} | {file.stat().st_size / 1e6:.0f} | {seconds:.2f} | {memory:.0f} |", flush=True)
            slowest = max(slowest, seconds)
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
