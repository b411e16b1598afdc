"""Five hundred configs that are wrong in one place: each is caught and named, none with a traceback; valid ones pass.

VeRL's own validation sees them too: what it refuses, we must catch, and it must take the valid ones. The generator is
mutations.py, its seed SEED; VeRL's half is verl_verdicts.py.
"""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain_verl import base_models, preflight
from posttrain_verl.compose import compose
from posttrain_verl.run.environment import process_variables
from posttrain_verl.terminal.problem import Problem, blocking
from posttrain_verl.verl.composed import Composed

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
    named = file.with_name(f"{file.name}.parquet")
    pq.write_table(pa.Table.from_pylist([row] * rows), named)
    return str(named)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sound Parquet files, and broken ones by what is wrong with them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "broken.parquet").write_text("no parquet")
    unknown, wrong = (
        {"data_source": "nobody/knows"},
        {"reward_model": {"style": "rule", "ground_truth": ""}},
    )
    odd = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "12"}]}]}
    long = {"messages": [{**QUESTION, "content": "9" * 2000}, SFT["messages"][1]]}
    made = {"missing": str(folder / "missing"), "rl": write(folder / "rl", RL), "sft": write(folder / "sft", SFT),
            "rl few": write(folder / "rl few", RL, 128), "sft few": write(folder / "sft few", SFT, 128),
            "rl wrong gold": write(folder / "gold", RL | wrong), "rl unknown source": write(folder / "source", RL | unknown),
            "rl no template": write(folder / "role", RL | odd), "sft long rows": write(folder / "long", SFT | long),
            "sft no answer": write(folder / "questions", {"messages": [QUESTION]})}  # fmt: skip
    for stage, row in (("rl", RL), ("sft", SFT)):
        text = {"prompt": "12+34=", "messages": "12+34="}
        made |= {
            f"{stage} no parquet": str(folder / "broken.parquet"),
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
    base_models.ensure_model("tiny")
    composed = {}
    for name, words in LAUNCHES.items():
        data = files[("sft" if "sft" in name else "rl") + (" few" if name.endswith("on cpu") else "")]
        composed[name] = compose([*words, f"data.train_files={data}", f"data.val_files={data}"])
    return composed


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with mutations.quick_interpolations():
        yield


@pytest.fixture(scope="module")
def valid(launches: dict[str, Composed], files: dict[str, str], quick: None) -> list[mutations.Valid]:
    return [mutations.Valid(name, one.stage.name, one.verl, files) for name, one in launches.items()]


@pytest.fixture(scope="module")
def wrong(valid: list[mutations.Valid]) -> list[mutations.Mutant]:
    return mutations.mutants(valid, COUNT, SEED)


@pytest.fixture(scope="module")
def verdicts(launches, wrong, tmp_path_factory) -> Iterator[Future[list[str]]]:
    """VeRL's verdicts of the valid configs and the wrong ones: it works while ours are checked."""
    folder = tmp_path_factory.mktemp("verl")
    valid = {name: (one.stage.name, one.verl) for name, one in launches.items()}
    changed = [(name, {}) for name in valid] + [(each.base, each.changes) for each in wrong]
    (folder / "configs").write_bytes(pickle.dumps((valid, changed)))
    command = [sys.executable, str(HERE / "verl_verdicts.py"), str(folder / "configs"), str(folder / "verdicts")]

    def ask() -> list[str]:
        done = subprocess.run(
            command, env={**os.environ, **process_variables("cpu", True)}, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((folder / "verdicts").read_text())

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(ask)


@pytest.fixture(scope="module")
def found(launches, wrong, verdicts) -> list[list[Problem]]:
    """What our checks say of each mutant. An exception of theirs fails every test here."""
    said = []
    for each in wrong:
        base = launches[each.base]
        config = mutations.apply(base.verl, each.changes)
        said.append(blocking(preflight.find_problems(replace(base, verl=config))))
    return said


@pytest.mark.parametrize("name", LAUNCHES)
def test_valid_configs_pass(launches, name):
    assert blocking(preflight.find_problems(launches[name])) == []


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


def test_verl_takes_what_passes(verdicts):
    assert dict(zip(LAUNCHES, verdicts.result(), strict=False)) == dict.fromkeys(LAUNCHES, "")


def test_what_verl_refuses_is_caught(wrong, found, verdicts):
    theirs = verdicts.result()[len(LAUNCHES) :]
    refused = [(each.changes, why, said) for each, why, said in zip(wrong, theirs, found, strict=True) if why]
    assert len(refused) > COUNT / 5, "or this would hold nothing"
    assert [(changes, why) for changes, why, said in refused if not said] == []
