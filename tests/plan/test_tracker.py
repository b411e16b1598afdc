"""The memory model against torch's own tracker of FSDP2, for models of 0.5 to 32 B on 1 to 64 GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TRACKER = Path(__file__).resolve().parents[2] / "benchmarks/plan_tracker.py"


def test_the_plan_is_within_a_tenth_of_the_tracker():
    """In a process of its own, for the sake of its fake process group."""
    told = subprocess.run([sys.executable, TRACKER, "--sample", "--json"], capture_output=True, text=True, timeout=900)
    assert told.returncode == 0, told.stderr
    rows = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 7
    off = {f"{row['model']} on {row['gpus']}": row["ratio"] for row in rows if abs(row["ratio"] - 1) > 0.1}
    assert not off
