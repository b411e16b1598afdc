"""Every recipe with its own mix, built at its full size from made-up files in the format of the published sets.

What a recipe asks of its data is met by the numbers of its mix: rows of a batch, steps of a schedule, order of a curriculum.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf

import data_prep
from posttrain_verl import paths, preflight
from posttrain_verl.compose import compose
from posttrain_verl.preflight import data
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl.composed import Composed

_spec = importlib.util.spec_from_file_location("stand_ins", Path(__file__).with_name("stand_ins.py"))
stand_ins: Any = importlib.util.module_from_spec(_spec)  # type: ignore[arg-type]
_spec.loader.exec_module(stand_ins)  # type: ignore[union-attr]

MIXES = sorted(paths.names("mix"))
RECIPES = sorted(file.stem for file in paths.recipes_dir().glob("*.yaml"))
SETTINGS = yaml.safe_load(Path(__file__).with_name("published_settings.yaml").read_text("utf-8"))["recipes"]
CURRICULA = {"math": "math_grpo", "code_rl": "code_grpo"}  # mixes whose RL rows are one, each with a recipe for it
# The sizes of the sets, less where a mix takes fewer.
ROWS = {"gsm8k": 7473, "gsm8k_test": 1319, "math": 12000, "deepscaler": 14000, "dapo_math": 17000, "openr1_math": 3500,
        "taco": 12500, "kodcode": 11000, "mbpp": 374}  # fmt: skip
HELD_OUT = 500
# A filter looks at a row as it is written, and tests of its own show what it drops.
UNFILTERED = "posttrain.mix.filters={all: false, near_duplicate: 0}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixes")


@pytest.fixture(scope="module")
def words(folder: Path) -> dict[str, list[str]]:
    """By mix the overrides that read its sources from stand-ins."""
    return {mix: [f"posttrain.data_dir={folder}", UNFILTERED, *paths_of_sources(folder, mix)] for mix in MIXES}


def write_missing_pairs(composed: Composed) -> None:
    """Pairs of answers stand in the place of those that a model would have written to the questions of the mix."""
    columns = [name for name, kind in composed.settings.columns.items() if kind == "answer"]
    for file in data.list_data_files(composed) if columns else ():
        rows = []
        for number in range(12_800):
            texts = ("an answer", "another one, longer")[:: 1 - 2 * (number % 2)]  # either side is the longer one
            answers = {
                name: [{"role": "assistant", "content": text}] for name, text in zip(columns, texts, strict=True)
            }
            rows.append({"prompt": [{"role": "user", "content": f"{number}+1="}], **answers})
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file)


def paths_of_sources(folder: Path, mix: str) -> list[str]:
    sources = yaml.safe_load((paths.conf_dir() / "mix" / f"{mix}.yaml").read_text("utf-8"))["sources"]
    found = []
    for name, options in sources.items():
        if (kind := options.get("from", name)) in stand_ins.ROWS:
            file = folder / f"{name}.jsonl"
            if not file.exists():
                stand_ins.write_stand_in(folder, name, kind, ROWS.get(name, HELD_OUT))
            found.append(f"+posttrain.mix.sources.{name}.path={file}")
    return found


@pytest.fixture(scope="module")
def built(folder: Path, words: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The manifest of every mix of the library."""
    manifests = {}
    for mix in MIXES:
        composed = compose(["recipe=math_grpo", f"mix={mix}", "hardware=8xh100", *words[mix]])
        config: Any = OmegaConf.to_container(composed.posttrain.mix)
        manifests[mix] = data_prep.build(config, composed.data_dir)
    return manifests


def overrides(recipe: str, words: dict[str, list[str]], mix: str | None = None) -> list[str]:
    """A launch on the hardware that the recipe is planned for, by default on its own mix."""
    hardware = SETTINGS[recipe]["hardware"] if recipe in SETTINGS else "cpu"
    own = compose([f"recipe={recipe}", "hardware=8xh100"]).posttrain.mix.name
    return [f"recipe={recipe}", *f"hardware={hardware}".split(), f"mix={mix or own}", *words[mix or own]]


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_gets_the_rows_that_it_asks_for(mix, built):
    declared = yaml.safe_load((paths.conf_dir() / "mix" / f"{mix}.yaml").read_text("utf-8"))["splits"]
    files = built[mix]["files"]
    for split, options in declared.items():
        rows = files[f"{split}.parquet"]["rows"]
        assert rows == options["rows"] if options["rows"] != "all" else rows > 0, split


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_can_launch_on_its_own_mix(recipe, built, words):
    composed = compose(overrides(recipe, words))
    write_missing_pairs(composed)
    report = preflight.run_checks(composed, skip=("disk",))
    assert blocking(report.problems) == []
    verdicts = {verdict.check: verdict.verdict for verdict in report.verdicts}
    assert {verdicts[name] for name in ("data", "order", "batch", "schedule", "rewards")} == {"passed"}
    assert verdicts["manifest"] in ("passed", "warned")  # nobody has approved the data
    assert composed.settings.shuffles is not (recipe in CURRICULA.values() and composed.posttrain.mix.name in CURRICULA)


@pytest.mark.parametrize("mix", CURRICULA)
def test_a_curriculum_of_the_library_is_not_shuffled(mix, built, words):
    asked = overrides(CURRICULA[mix], words, mix)
    assert compose(asked).settings.shuffles is False
    report = preflight.run_checks(compose([*asked, "data.shuffle=true"]), skip=("disk",))
    said = [problem.what for problem in blocking(report.problems)]
    assert len(said) == 1 and said[0].endswith("is a curriculum, and data.shuffle=true would mix its stages")
