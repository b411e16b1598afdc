"""Five hundred configs that are wrong in one place: each is caught and named, none with a traceback; valid ones pass.

The generator is mutations.py, its seed SEED.
"""

import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain_verl import base_models, preflight
from posttrain_verl.compose import Composed, compose
from posttrain_verl.problem import Problem, blocking

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """A module beside this file, under its own name."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


mutations = load("mutations")
load("mutations_of_runs")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SEED = 20261125
COUNT = 500
LAUNCHES = {
    "math_grpo on cpu": ("recipe=math_grpo", "hardware=cpu", "base_model=tiny"),
    "math_grpo_lora on cpu": ("recipe=math_grpo_lora", "hardware=cpu", "base_model=tiny"),
    "math_ppo on cpu": ("recipe=math_ppo", "hardware=cpu", "base_model=tiny"),
    "demo_grpo on cpu": ("recipe=demo_grpo", "hardware=cpu", "base_model=tiny"),
    "math_sft on cpu": ("recipe=math_sft", "hardware=cpu", "base_model=tiny"),
    "demo_sft on cpu": ("recipe=demo_sft", "hardware=cpu", "base_model=tiny"),
    "math_grpo on 8 GPUs": ("recipe=math_grpo", "hardware=8xh100"),
    "math_ppo on 8 GPUs": ("recipe=math_ppo", "hardware=8xh100"),
    "math_grpo_lora on 1 GPU": ("recipe=math_grpo_lora", "hardware=1x80gb"),
    "code_grpo on 8 GPUs": ("recipe=code_grpo", "hardware=8xh100"),
    "math_sft on 8 GPUs": ("recipe=math_sft", "hardware=8xh100"),
}
QUESTION = {"role": "user", "content": "12+34="}
RL: dict[str, Any] = {"data_source": "embedded/chain_sum", "prompt": [QUESTION],
                      "reward_model": {"style": "rule", "ground_truth": "46"}}  # fmt: skip
SFT: dict[str, Any] = {"messages": [QUESTION, {"role": "assistant", "content": "#### 46"}]}


def write(file: Path, row: dict[str, Any], rows: int = 4096) -> str:
    pq.write_table(pa.Table.from_pylist([row] * rows), file)
    return str(file)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sound Parquet files, and broken ones by what is wrong with them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "broken").write_text("no parquet")
    unknown, wrong = (
        {"data_source": "nobody/knows"},
        {"reward_model": {"style": "rule", "ground_truth": ""}},
    )
    odd = {"prompt": [{"role": 7, "content": "12"}]}
    long = {"messages": [{**QUESTION, "content": "9" * 2000}, SFT["messages"][1]]}
    made = {"missing": str(folder / "missing"), "rl": write(folder / "rl", RL), "sft": write(folder / "sft", SFT),
            "rl wrong gold": write(folder / "gold", RL | wrong), "rl unknown source": write(folder / "source", RL | unknown),
            "rl no template": write(folder / "role", RL | odd), "sft long rows": write(folder / "long", SFT | long)}  # fmt: skip
    for stage, row in (("rl", RL), ("sft", SFT)):
        text = {"prompt": "12+34=", "messages": "12+34="}
        made |= {
            f"{stage} no parquet": str(folder / "broken"),
            f"{stage} no column": write(folder / f"{stage} column", {"text": "a"}),
            f"{stage} no rows": write(folder / f"{stage} rows", row, 0),
            f"{stage} other schema": write(
                folder / f"{stage} schema", row | {k: v for k, v in text.items() if k in row}
            ),
            f"{stage} two rows": write(folder / f"{stage} two", row, 2),
        }
    return made


@pytest.fixture(scope="module")
def launches(files: dict[str, str]) -> dict[str, Composed]:
    """The valid configs by name, each on sound data, those of the CPU with a tokenizer to look at."""
    base_models.ensure("tiny")
    composed = {}
    for name, words in LAUNCHES.items():
        data = files["sft" if "sft" in name else "rl"]
        composed[name] = compose([*words, f"data.train_files={data}", f"data.val_files={data}"])
    return composed


@pytest.fixture(scope="module")
def wrong(launches: dict[str, Composed], files: dict[str, str]) -> list[mutations.Mutant]:
    valid = [mutations.Valid(name, one.stage, one.verl, files) for name, one in launches.items()]
    return mutations.mutants(valid, COUNT, SEED)


@pytest.fixture(scope="module")
def found(launches, wrong) -> list[list[Problem]]:
    """What our checks say of each mutant. An exception of theirs fails every test here."""
    said = []
    for each in wrong:
        base = launches[each.base]
        config = mutations.apply(base.verl, each.changes)
        said.append(blocking(preflight.check(replace(base, verl=config))))
    return said


@pytest.mark.parametrize("name", LAUNCHES)
def test_valid_configs_pass(launches, name):
    assert blocking(preflight.check(launches[name])) == []


def test_every_mutant_is_caught_and_named(wrong, found):
    missed = [
        f"{each.base}, {each.kind}: {each.changes} said {[problem.what for problem in problems]}"
        for each, problems in zip(wrong, found, strict=True)
        if not any(part in problem.what for problem in problems for part in each.said)
    ]
    assert not missed, f"{len(missed)} of {COUNT}:\n" + "\n".join(missed[:40])


def test_every_problem_has_a_remedy(found):
    assert not [problem.what for problems in found for problem in problems if not problem.remedy]


def test_every_kind_is_tried(wrong):
    assert set(Counter(each.kind for each in wrong)) == set(mutations.KINDS)
