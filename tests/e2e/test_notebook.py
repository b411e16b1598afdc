"""The notebook of docs/python.md, cell by cell in a fresh Python, with the real VeRL and vLLM.

The cells run as Jupyter runs them: in the main thread, inside an event loop, with standard streams that have no descriptor.
Jupyter itself is not needed for that, and would be some twenty packages more in the environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "python.ipynb"
KERNEL = """
import asyncio, io, json, sys

class Stream(io.StringIO):
    def fileno(self):
        raise io.UnsupportedOperation("fileno")

async def run(cells):
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)

real, sys.stdout, sys.stderr = sys.stdout, Stream(), Stream()
with open(sys.argv[1]) as file:
    cells = json.load(file)["cells"]
try:
    asyncio.run(run(cells))
finally:
    print(json.dumps({"out": sys.stdout.getvalue(), "err": sys.stderr.getvalue()}), file=real)
"""


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_notebook_from_a_plan_to_a_report(shared, tmp_path):
    (tmp_path / "data").symlink_to(shared["POSTTRAIN_TEST_DATA"], target_is_directory=True)
    Path(shared["POSTTRAIN_TEST_DATA"]).mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", KERNEL, NOTEBOOK], cwd=tmp_path, env={**os.environ, **shared},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == "", "a process printed beside the streams of the notebook"
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    expected = ["recipe 'math_grpo' cannot launch", "of a GPU at the peak", "demo_sft/notebook done at step 16 of 16",
                "at step 1, ", "base on embedded: accuracy", "sft on embedded: accuracy",
                "sft against base on embedded"]  # fmt: skip
    for part in expected:
        assert part in said["out"], part
    assert [f"step {step}: loss" in said["err"] for step in (1, 16)] == [True, True], (
        "progress, by the cell that asks for it"
    )
    assert (tmp_path / "runs/demo_sft/notebook/report.html").stat().st_size > 100_000
