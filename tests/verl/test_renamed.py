"""A later VeRL calls some keys otherwise: five of its keys, renamed in a copy of it, are five lines of ours."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths, preflight, verbs
from posttrain_verl.compose import compose
from posttrain_verl.pipeline.entry import Journal, Pipeline
from posttrain_verl.pipeline.reading import read_spec
from posttrain_verl.plan import summary
from posttrain_verl.preflight import capacity, config_form
from posttrain_verl.terminal.command_line import read
from posttrain_verl.verl import renamed
from posttrain_verl.verl.renamed import RENAMED, current_key, our_key, translate

# One of SFT alone, one that both stages share, one of the rollout engine, one that VeRL itself refers to, and a node that our
# trunk sets.
NAMES = {
    "data.max_length": "data.longest_row",
    "trainer.n_gpus_per_node": "trainer.devices_per_node",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "actor_rollout_ref.rollout.memory_fraction",
    "data.max_response_length": "data.longest_answer",
    "reward.custom_reward_function": "reward.grader",
}
FILES = {  # where VeRL's tree has them, and the place of the file in the tree
    "ppo_trainer.yaml": "", "sft_trainer_engine.yaml": "", "_generated_ppo_trainer.yaml": "", "data/legacy_data.yaml": "data.",
    "rollout/rollout.yaml": "actor_rollout_ref.rollout.", "reward/reward.yaml": "reward.",
}  # fmt: skip
LAUNCHES = {
    "sft on a GPU": ("recipe=math_sft", "hardware=1x80gb"),
    "sft on a CPU": ("recipe=math_sft", "hardware=cpu"),
    "rl on GPUs": ("recipe=gsm8k_grpo", "hardware=1x80gb"),
    "rl on a CPU": ("recipe=math_dapo", "hardware=cpu"),
}
OF_THE_MOMENT = ("disk", "shared_memory", "ports")  # checks whose messages have numbers of this machine


@pytest.fixture(scope="module")
def later_verl(tmp_path_factory) -> Path:
    """The config folder of a copy of VeRL that has the new names, in its yaml and in its classes."""
    theirs = paths.verl_config_dir()
    copy = tmp_path_factory.mktemp("site") / "verl"
    shutil.copytree(theirs.parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    config = copy / "trainer" / "config"
    seen = set()
    for file, place in FILES.items():
        seen |= rename_in_yaml(config / file, place)
    assert seen == set(NAMES)
    for file in config.rglob("*.yaml"):
        text = file.read_text()
        for old, new in NAMES.items():
            text = re.sub(rf"(\$\{{(?:[\w.]+:)?){re.escape(old)}\b", rf"\g<1>{new}", text)
        file.write_text(text)
    rename_in_class(copy / "workers/config/rollout.py", "gpu_memory_utilization", "memory_fraction")
    return config


def rename_in_yaml(file: Path, place: str) -> set[str]:
    """Rename the keys of a file of VeRL's tree, and tell which they were."""
    lines, above, found = file.read_text().splitlines(), [], set()
    for number, line in enumerate(lines):
        if match := re.match(r"( *)(\w+):", line):
            above = [*(each for each in above if each[0] < len(match[1])), (len(match[1]), match[2])]
            key = place + ".".join(name for _, name in above)
            if key in NAMES:
                lines[number] = line.replace(match[2], NAMES[key].rpartition(".")[2], 1)
                found.add(key)
    file.write_text("\n".join(lines) + "\n")
    return found


def rename_in_class(file: Path, old: str, new: str) -> None:
    text, count = re.subn(rf"^    {old}:", f"    {new}:", file.read_text(), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def forget_what_was_read() -> None:
    """What was read of a VeRL before; the functions that keep it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("posttrain_verl."):
            for each in vars(module).values():
                if hasattr(each, "cache_clear"):
                    each.cache_clear()


@pytest.fixture
def installed(later_verl, monkeypatch) -> Iterator[None]:
    """The later VeRL is the one that is installed."""
    monkeypatch.setattr(paths, "verl_config_dir", lambda: later_verl)
    forget_what_was_read()
    yield
    forget_what_was_read()


@pytest.fixture
def mapped(monkeypatch) -> None:
    """The five lines."""
    for old, new in NAMES.items():
        monkeypatch.setitem(RENAMED, old, new)


def under_new_names(text: str) -> str:
    for old, new in NAMES.items():
        text = re.sub(rf"(?<![\w.]){re.escape(old)}(?!\w)", new, text)
    return text


def describe(words: tuple[str, ...]) -> dict[str, object]:
    """All that the product says of a launch: the config that VeRL gets, what the hardware changed, plan, disk, and verdicts."""
    composed = compose([*words, "posttrain.run_id=one"])
    config = OmegaConf.to_container(composed.for_run(composed.run_dir()), resolve=True)
    report = preflight.run_checks(composed)
    assert [each.note for each in report.verdicts if each.note.startswith("the config does not have")] == []
    return {
        "config": dict(renamed.iterate_leaves(config)),
        "changes": [str(change) for change in composed.changes],
        "plan": summary.summarize_plan(composed),
        "disk": capacity.describe_disk(composed),
        "verdicts": {each.check: each.verdict for each in report.verdicts},
        "problems": [f"{problem.what} | {problem.remedy}" for each in report.verdicts if each.check not in OF_THE_MOMENT
                     for problem in each.problems],
    }  # fmt: skip


@pytest.fixture(scope="module")
def as_it_was() -> dict[str, dict[str, object]]:
    """The launches with VeRL as it is installed."""
    forget_what_was_read()
    return {name: describe(words) for name, words in LAUNCHES.items()}


@pytest.mark.parametrize("name", LAUNCHES)
def test_with_five_lines_every_launch_is_what_it_was(as_it_was, installed, mapped, name):
    before, after = as_it_was[name], describe(LAUNCHES[name])
    assert after["config"] == {current_key(key): value for key, value in before["config"].items()}
    assert set(after["config"]) & {*NAMES, "reward.custom_reward_function.path"} == set()
    for what in ("changes", "problems"):
        assert after[what] == [under_new_names(line) for line in before[what]]
    for what in ("plan", "disk", "verdicts"):
        assert after[what] == before[what]


@pytest.mark.parametrize("name", LAUNCHES)
def test_without_them_each_old_key_is_named(installed, name):
    refused = {problem.what.split()[0] for problem in config_form.check_keys(compose([*LAUNCHES[name]]))}
    stage = {"data.max_length"} if name.startswith("sft") else {
        "data.max_response_length", "reward.custom_reward_function.path", "reward.custom_reward_function.name",
        "actor_rollout_ref.rollout.gpu_memory_utilization"}  # fmt: skip
    assert {"trainer.n_gpus_per_node", *stage} <= refused


def test_a_user_who_writes_the_old_name_is_told_the_new_one(installed, mapped):
    composed = compose(["recipe=gsm8k_grpo", "hardware=cpu", "data.max_response_length=64", "reward.grader.name=mine"])
    (problem,) = config_form.check_keys(composed)
    assert problem.what.startswith("data.max_response_length is not a key of VeRL")
    assert problem.remedy == "VeRL calls it data.longest_answer now"
    assert composed.verl.reward.grader.name == "mine"


def test_the_file_of_a_pipeline_is_translated_and_its_command_line_is_not(installed, mapped, tmp_path):
    file = tmp_path / "own.yaml"
    stages = "[{recipe: demo_sft, overrides: [data.max_length=64]}]"
    file.write_text(f"stages: {stages}\nevals: [test]\noverrides: [trainer.n_gpus_per_node=1]")

    def problems(*overrides: str) -> list[str]:
        spec = read_spec(read(verbs.Pipeline, [f"recipe={file}", "hardware=cpu", *overrides]))
        (launch,) = Pipeline(spec, tmp_path, Journal(tmp_path, {})).launches()
        assert launch.settings.max_length == 64
        return [problem.remedy for problem in config_form.check_keys(launch)]

    assert problems() == []
    assert problems("sft:trainer.n_gpus_per_node=1") == ["VeRL calls it trainer.devices_per_node now"]


def test_a_value_is_judged_under_its_new_key(installed, mapped):
    launch = compose(["recipe=gsm8k_grpo", "hardware=cpu", "actor_rollout_ref.rollout.memory_fraction=2"])
    found = config_form.check_values(launch)
    assert "actor_rollout_ref.rollout.memory_fraction=2 is out of range" in [problem.what for problem in found]


def test_without_renamed_keys_a_tree_is_not_read(monkeypatch):
    tree = {"data": {"max_length": 1}}
    monkeypatch.setattr(renamed, "iterate_leaves", None)
    assert RENAMED == {} and translate(tree) is tree


def test_a_node_moves_with_all_that_refers_to_it(monkeypatch):
    monkeypatch.setitem(RENAMED, "trainer.v1", "loop")
    monkeypatch.setitem(RENAMED, "trainer.v1.sampler.path", "loop.buffer")
    tree = {"trainer": {"v1": {"sampler": {"path": "x", "n": 2}}, "logger": ["${trainer.v1.mode}"]},
            "other": "${oc.select:trainer.v1.sampler.path,${trainer.v1}}"}  # fmt: skip
    assert translate(tree) == {
        "loop": {"buffer": "x", "sampler": {"n": 2}},
        "trainer": {"logger": ["${loop.mode}"]},
        "other": "${oc.select:loop.buffer,${loop}}",
    }
    assert our_key(current_key("trainer.v1.sampler.n")) == "trainer.v1.sampler.n"
