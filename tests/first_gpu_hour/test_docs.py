"""docs/gpu.md lists every file in which what runs differs between a CPU and a GPU, and every folder that asks the name."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASKS = re.compile(r"""cpu\.is_chosen\(\)|[!=]= "cpu"|"VERL_PLATFORM": "cpu"|\{"cpu": \d""")


def test_the_paths_that_differ_are_listed():
    page = (ROOT / "docs" / "gpu.md").read_text()
    files = [
        str(file.relative_to(ROOT)) for file in (ROOT / "posttrain_verl").rglob("*.py") if ASKS.search(file.read_text())
    ]
    asking = [file for file in files if not file.startswith("posttrain_verl/cpu/")]
    assert "posttrain_verl/run/environment.py" in asking, "the reader of sources finds nothing"
    unlisted = [file for file in asking if file not in page and f"{file.rpartition('/')[0]}/" not in page]
    assert unlisted == []
