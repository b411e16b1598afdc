"""`api.compose` and `api.check` say what the verbs say, and the module is light."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from posttrain_verl import api, check, sweep
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Check

WORDS = ["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded"]


def test_importing_it_imports_nothing_heavy():
    heavy = {"torch", "ray", "verl", "vllm", "transformers", "scipy", "pandas", "jinja2", "datasets"}
    script = f"from posttrain_verl import api; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_words_are_those_of_the_command_line(tmp_path):
    composed = api.compose(*WORDS, f"runs_dir={tmp_path}", "run_id=first", "optim.lr=1e-4")
    assert composed.run_dir() == tmp_path / "math_sft" / "first" and composed.settings.model.lr == 1e-4
    assert len(repr(composed)) < 500, "a notebook shows it"
    with pytest.raises(api.InputError) as wrong:
        api.compose("recipe=math_stf", "x")
    assert "'x' is not a key=value" in str(wrong.value)


def without_seconds(facts):
    for each in facts["checks"]:
        del each["seconds"]
    return facts


@pytest.mark.parametrize("more", [[], ["optim.lrr=1"], ["data.train_batch_size=15", "data.micro_batch_size_per_gpu=4"]])
def test_a_check_has_what_the_verb_prints_as_json(more, tmp_path, capfd):
    words = [*WORDS, f"posttrain.data_dir={tmp_path}", *more]
    found = api.check(api.compose(*words))
    assert capfd.readouterr() == ("", "")
    code = command_line.main(Check, check.run, [*words, "--json"])
    assert (code == 0) is found.ok is (not more)
    assert without_seconds(found.as_dict()) == without_seconds(json.loads(capfd.readouterr().out))


def test_a_check_is_typed(tmp_path):
    found = api.check(api.compose("recipe=math_grpo", "hardware=8xh100", f"data_dir={tmp_path}"))
    assert not found.ok and found.title == "recipe 'math_grpo' cannot launch"
    assert (
        all("posttrain_verl.prep mix=math" in problem.remedy for problem in found.problems) and len(found.problems) == 2
    )
    assert (found.batch.sequences, found.batch.prompts) == (5120, 1024) and found.steps is None
    phase, peak = found.memory.peak
    assert found.memory.fits and phase in found.memory.phases and 2**33 < peak < found.memory.job.memory
    assert found.disk_bytes > 10**11
    assert str(found).startswith("recipe math_grpo: RL with GRPO") and "cannot launch (2 problems)" in str(found)


def test_problems_of_the_recipe_do_not_raise(tmp_path):
    found = api.check(api.compose(*WORDS, f"data_dir={tmp_path}", "optim.lrr=1", "data.train_batch_size=abc"))
    assert "did you mean optim.lr?" in [problem.remedy for problem in found.problems]
    assert (found.batch, found.memory, found.steps) == (None, None, None)
    assert found.to_build and "did you mean optim.lr?" in str(found)


def test_threads_compose_at_once(tmp_path, monkeypatch):
    """One of them has a recipe and an option that only its own words name."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "elsewhere.yaml"
    own.write_text("defaults: [/sft, {override /mix: embedded}, _self_]\n")
    recipes = ["math_sft", "math_grpo", "demo_sft", str(own)]

    def compose(number):
        words = [f"recipe={recipes[number % 4]}", "hardware=cpu", f"run_id=r{number}", f"optim.lr=1e-{3 + number % 4}"]
        return api.compose(*(words if number % 4 != 1 else words[:3]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compose, range(16)))
    assert [each.recipe for each in found] == ["math_sft", "math_grpo", "demo_sft", "elsewhere"] * 4
    assert [each.posttrain.run_id for each in found] == [f"r{number}" for number in range(16)]


@pytest.fixture
def under_hydra(tmp_path):
    """A program that has composed its own config: what Hydra keeps for its process."""
    store = ConfigStore.instance()
    store.store(name="launch", node={"theirs": 1})
    store.store(group="recipe", name="math_sft", node={"theirs": 2})
    (tmp_path / "app.yaml").write_text("seen: 3\n")
    HydraConfig.instance().cfg = None
    try:
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
            yield lambda: hydra.compose("app")
            GlobalHydra.instance().clear()
    finally:
        store.repo.pop("launch.yaml")
        store.repo.pop("recipe")


def hydras_state():
    kinds = (GlobalHydra, ConfigStore, HydraConfig, VersionBase)
    held = {kind: Singleton._instances[kind] for kind in kinds}
    store = held[ConfigStore].repo
    names = {name: sorted(node) if isinstance(node, dict) else node for name, node in store.items()}
    return held, held[GlobalHydra].hydra, held[VersionBase].version_base, names


def test_a_program_that_uses_hydra_keeps_its_own(under_hydra, tmp_path, monkeypatch):
    before = hydras_state()
    composed = api.compose(*WORDS, f"data_dir={tmp_path}")
    assert composed.recipe == "math_sft" and composed.settings.model.lr
    assert not api.check(api.compose(*WORDS, "data.train_batch_sizee=1")).ok
    assert hydras_state() == before and under_hydra() == {"seen": 3}
    with pytest.raises(api.InputError):
        api.compose("recipe=math_sft", "hardware=nosuch")
    asked = []
    monkeypatch.setattr(sweep.MemberRunner, "run", lambda self, typed, at_once: asked.extend(typed) or [])
    assert sweep.check_sweep("posttrain_verl.check", [*WORDS, "run_id=a,b"], []) == 0 and len(asked) == 2
    assert hydras_state() == before and under_hydra() == {"seen": 3}


@pytest.mark.parametrize(
    ("call", "said"),
    [(lambda: api.compose(["recipe=math_sft"]), "is not a word.*string of its own: compose"),
     (lambda: api.compose("recipe=math_sft hardware=cpu"), "'recipe=math_sft hardware=cpu' is not a word.*of its own"),
     (lambda: api.compose(recipe="math_sft"), 'recipe= is given as a keyword.*"recipe=math_sft"'),
     (lambda: api.check("recipe=math_sft"), r"check takes what compose\(\) returns.*api.compose"),
     (lambda: api.launch(["recipe=math_sft"]), r"launch takes what compose\(\) returns"),
     (lambda: api.run("nope"), r'runs_dir="..." looks elsewhere'), (lambda: api.Run(None), "None is not a folder")],
)  # fmt: skip
def test_a_wrong_call_is_told_the_right_one(call, said):
    with pytest.raises(api.InputError, match=f"(?s){said}"):
        call()


def test_a_word_may_hold_spaces_and_equal_signs(tmp_path):
    words = ["posttrain.cluster.setup=[module load a=b]", "chat_template='a b=c'", f"data_dir={tmp_path}/my data"]
    assert api._check_words("compose", tuple(words)) == words
