"""Questions, a model and an engine that need neither vLLM nor weights: those of tests/evaluate."""

import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import schema
from posttrain_verl.synthesize import __main__ as verb
from posttrain_verl.synthesize.job import read_job
from posttrain_verl.terminal.command_line import read
from posttrain_verl.verbs import Synthesize

_spec = importlib.util.spec_from_file_location("evaluate_fixtures", Path(__file__).parents[1] / "evaluate/conftest.py")
_evaluate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_evaluate)
fake, model = _evaluate.fake, _evaluate.model


@pytest.fixture
def sums(tmp_path):
    """`sums(n)` writes n training questions into a Parquet in the RL schema."""

    def write(n: int, name: str = "sums", **facts) -> Path:
        rows = [
            {"data_source": "embedded/sums", "prompt": [{"role": "user", "content": f"{10 + n}+{20 + n}="}],
             "ability": "math", "reward_model": {"style": "rule", "ground_truth": str(30 + 2 * n)},
             "extra_info": {"split": "rl_train", "index": n, "id": f"sum/{n}", "source": "sums",
                            "difficulty": float(n % 3), "stage": None} | facts}
            for n in range(n)
        ]  # fmt: skip
        file = tmp_path / "questions" / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.RL.schema), file)
        return file

    return write


@pytest.fixture
def synthesize(fake, model, tmp_path):
    """Run the verb; returns its manifest. The folder is data/out below tmp_path."""

    def run(file, *words):
        given = [f"mix={file}", f"base_model={model}", f"posttrain.data_dir={tmp_path}/data", "name=out", *words]
        return verb.synthesize_data(read_job(read(Synthesize, given)))

    return run


@pytest.fixture
def rows(tmp_path):
    """`rows("sft_train")` reads a file of the data set."""
    return lambda name: pq.read_table(tmp_path / "data/out" / f"{name}.parquet").to_pylist()
