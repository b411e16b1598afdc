"""Every pipeline of conf/pipeline is read, and its launches compose; what is wrong with a file or an override is named."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.pipeline.entry import TEST_SPLIT, Journal, Spec
from posttrain_verl.pipeline.entry import Pipeline as Running
from posttrain_verl.pipeline.reading import read_spec
from posttrain_verl.pipeline.training import Plateau
from posttrain_verl.preflight import config_form
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Pipeline
from posttrain_verl.verl.renamed import RENAMED


def planned(overrides) -> Spec:
    return read_spec(read(Pipeline, overrides))


def running(overrides, home) -> Running:
    return Running(planned(overrides), home, Journal(home, {}))


@pytest.fixture
def own(tmp_path):
    """The argument that names a pipeline of the user's own."""

    def write(text: str) -> str:
        (tmp_path / "own.yaml").write_text(text)
        return f"recipe={tmp_path}/own.yaml"

    return write


def refused(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        planned(overrides)
    return str(caught.value)


NAMES = sorted(file.stem for file in (paths.conf_dir() / "pipeline").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_is_sound(name, tmp_path):
    it = running([f"recipe={name}", "hardware=cpu"], tmp_path)
    own = ["rft"] if name.endswith("_rft") else ["dpo"] if name.endswith("_dpo") else []
    ends_with_rl = name not in ("demo_rft", "demo_dpo")
    names = ["sft", *(["synthesize", *own] if own else []), *(["rl"] if ends_with_rl else [])]
    trained = ["sft" if each == "rft" else each for each in names if each != "synthesize"]
    assert [entry.name for entry in it.spec.stages] == names
    assert [composed.stage.name for composed in it.launches()] == trained
    assert not any(config_form.check_keys(composed) for composed in it.launches())
    assert not any(entry.misuse(override) for entry in it.spec.stages for override in entry.overrides)
    assert set(it.spec.evals) <= {*paths.names("eval"), TEST_SPLIT}
    assert it.spec.evals


def test_pairs_of_the_model_itself_are_not_mixed_with_others(tmp_path, monkeypatch):
    """Rows for SFT stand beside those of the mix; pairs are answers of the model that is trained."""
    monkeypatch.chdir(tmp_path)
    it = running(["recipe=demo_dpo", "hardware=cpu"], tmp_path)
    synthesis, launch = it.spec.stages[1], it.launches()[-1]
    own = synthesis.folder(it)
    there = [Path(launch.settings.train_files), Path(launch.settings.val_files)]
    for file in [*there, *(own / each.name for each in there)]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    files = [override.partition("=")[2] for override in synthesis._data_overrides(it, launch)]
    assert [each.strip("[]\"'") for each in files] == [str(own / "pairs_train.parquet"), str(own / "pairs_val.parquet")]


def test_overrides_go_to_their_stages(tmp_path):
    for_stages = ["sft:optim.lr=1", "rl:data.seed=4", "evaluate:rows=9", "evaluate:source.path=x"]
    given = ["seed=2", "base_model=tiny", "hardware=cpu", *for_stages]
    it = running(["recipe=demo", *given], tmp_path)
    assert (it.spec.run_id, it.spec.seed) == ("seed2", 2)
    assert it.spec.overrides == ["base_model=tiny", "hardware=cpu"] and it.spec.evaluate == [
        "max_tokens=64",
        "rows=9",
        "source.path=x",
    ]
    assert [entry.overrides for entry in it.spec.stages] == [["optim.lr=1"], ["data.seed=4"]]
    sft, rl = (entry.launch_overrides(it) for entry in it.spec.stages)
    assert {"base_model=tiny", "optim.lr=1", "posttrain.data_dir=data/seed2"} <= set(sft)
    assert {"base_model=tiny", "data.seed=4", "actor_rollout_ref.rollout.seed=2"} <= set(rl)


def test_settings_are_replaced():
    assert planned(["recipe=math"]).require_inspected
    assert not planned(["recipe=math", "require_inspected=false"]).require_inspected


def plateaus(*overrides: str) -> list[Plateau | None]:
    return [entry.plateau for entry in planned(overrides).stages]


def test_the_rule_that_ends_a_stage_is_given_or_changed_by_overrides(own):
    assert plateaus("recipe=demo") == [None, None]
    assert plateaus("recipe=demo", "plateau.patience=1") == [Plateau(patience=1), None]
    assert plateaus("recipe=math", "plateau.min_gain=0.2") == [Plateau(min_gain=0.2), None]
    second = own("stages: [{recipe: demo_sft, name: a}, {recipe: demo_sft, plateau: {patience: 3}}]\nevals: [test]")
    assert plateaus(second, "plateau.metric=val/x") == [None, Plateau(metric="val/x", patience=3)]


def test_a_stage_is_named_by_its_recipe_or_by_the_file(own, tmp_path):
    it = running(
        [own("stages: [{recipe: demo_sft}, {recipe: demo_sft, name: more}]\nevals: [test]"), "more:optim.lr=1"],
        tmp_path,
    )
    assert it.spec.name == "own" and [entry.name for entry in it.spec.stages] == ["sft", "more"]
    assert it.spec.stages[1].overrides == ["optim.lr=1"]
    runs = [entry.run_of(it).path for entry in it.spec.stages]
    assert runs == [tmp_path / "runs/demo_sft/0", tmp_path / "runs/demo_sft/1"]


def test_all_problems_of_a_command_line_come_at_once():
    said = refused("recipe=demo", "export=5", "run_id=a/b", "plateau.min_gain=-1", "evaluate:row=3", "fast")
    for problem in ("export=5 is", "run_id=a/b is", "plateau.min_gain=-1 is", "did you mean rows?", "'fast' is not"):
        assert problem in said


BAD = """
stages:
  - {recipe: demo_sft, plateau: {patience: 0, often: 1}}
  - {recipe: demo_sfd, name: base, overrides: [fast]}
  - 5
  - {naem: x}
  - {recipe: demo_grpo, name: a-b, overrides: x=1}
evals: gsm8k
evaluate: [row=3]
exprot: false
"""


def test_all_problems_of_a_file_come_at_once(own):
    said = " ".join(refused(own(BAD)).split())
    for problem in (
        "stages[0].plateau.patience: is 0, not a number of at least 1",
        "stages[0].plateau.often: is not a known key known keys: metric, patience, min_gain",
        "stages[1].name: is taken write another name than base, prep, inspect, choose, evaluate, export",
        "stages[1].overrides[0]: is 'fast' write KEY=VALUE",
        "stages[1].recipe: is 'demo_sfd', which is not a recipe did you mean demo_sft?",
        "stages[2]: is 5, not a mapping",
        "stages[3]: does not say what it does write recipe: ... or write synthesize: ...",
        "stages[4].name: is 'a-b' write letters, digits and underscores, a letter first",
        "stages[4].overrides: is 'x=1' write a list: [KEY=VALUE, ...]",
        "evals: is 'gsm8k' write a list: [NAME, ...]",
        "evaluate[0]: is 'row=3', which is not an option of evaluate did you mean rows?",
        "exprot: is not a known key did you mean export?",
    ):
        assert problem in said


@pytest.mark.parametrize(
    ("text", "named"),
    [("stages: [{recipe: demo_sft}, {recipe: demo_sft}]\nevals: [test]",
      "stages[1]: is another stage sft give it a name: sft2"),
     ("stages: []\nevals: [test]", "stages: names no stage name at least one recipe"),
     ("evals: [test]", "stages: is missing write a list: one `- {recipe: NAME}` a stage"),
     ("stages: [null]\nevals: [test]", "stages[0]: does not say what it does write recipe: ... or write synthesize: ..."),
     ("stages: [{recipe: demo_sft}]\nevals: [gsm9k]",
      "evals[0]: is 'gsm9k', which is not a set of questions did you mean gsm8k?"),
     ("stages: [{recipe: demo_sft}]\nevals: []", "evals: names no set of questions name at least one"),
     ("words: 5", "has words at its top"), ("words: evaluate", "has words at its top"),
     ("[1]", "is not a mapping"), ("stages: [", "cannot be read")],
)  # fmt: skip
def test_wrong_files_are_named(own, text, named):
    assert named in " ".join(refused(own(text)).split())


@pytest.mark.parametrize("rule", ["5", "[1]", "text", "false"])
def test_a_rule_that_is_not_a_mapping_is_named_beside_one_of_the_command_line(own, rule):
    file = own(f"stages: [{{recipe: demo_sft, plateau: {rule}}}]\nevals: [test]")
    assert "stages[0].plateau: is" in refused(file, "plateau.patience=3")


FORMER = """
sft: demo_sft
rl: demo_grpo
seed: 1
evals: [test]
plateau: {patience: 3}
words: {all: [hardware=cpu], sft: [optim.lr=1], rl: [data.seed=4], evaluate: [max_tokens=64]}
"""


def test_the_remedy_for_the_former_keys_is_the_file_as_it_is_written_now(own):
    said = refused(own(FORMER))
    assert "has sft, rl, plateau, words at its top" in said
    present = planned([own(said.partition("write it so:\n")[2])])
    assert [(entry.recipe, entry.overrides, entry.plateau) for entry in present.stages] == [
        ("demo_sft", ["optim.lr=1"], Plateau(patience=3)), ("demo_grpo", ["data.seed=4"], None),
    ]  # fmt: skip
    assert (present.seed, present.evals) == (1, ["test"])
    assert (present.overrides, present.evaluate) == (["hardware=cpu"], ["max_tokens=64"])


@pytest.mark.parametrize("name", ["math", "code"])
def test_keys_of_verl_in_a_file_follow_the_installed_verl(name, monkeypatch):
    """A key that a later VeRL renames is one line of `verl/renamed.py`, as it is for recipes."""
    file = OmegaConf.load(paths.conf_dir() / "pipeline" / f"{name}.yaml")
    assert file.stages[0].overrides == ["trainer.total_epochs=6"]
    monkeypatch.setitem(RENAMED, "trainer.total_epochs", "trainer.epochs")
    (override,) = Spec.model_validate({**file, "<name>": name, "run_id": "0", "runs_dir": "runs"}).stages[0].overrides
    assert override == "trainer.epochs=6"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [([], "no pipeline is named"), (["recipe=maths"], "recipe=maths is not a pipeline"),
     (["recipe=../launch"], "recipe=../launch is not a pipeline"),
     (["recipe=nosuch.yaml"], "recipe=nosuch.yaml is not a pipeline"),
     (["recipe=demo", "fast"], "'fast' is not"),
     (["recipe=demo", "seed=x"], "seed=x is not a whole number"),
     (["recipe=demo", "plateau.patience=0"], "patience=0 is too small"),
     (["recipe=demo", "plateau.patience=often"], "patience=often is not a whole number"),
     (["recipe=demo", "stf:optim.lr=1"], r"'stf:optim.lr=1' is for stf, which is not a stage .*\s+did you mean sft:\? "
                                         "there are: sft:, rl:, evaluate:"),
     (["recipe=demo", "sft:recipe=math_sft"], "'sft:recipe=math_sft' is for a key that the pipeline itself sets"),
     (["recipe=demo", "posttrain.run_id=1"], "'posttrain.run_id=1' is for a key that the pipeline itself sets"),
     (["recipe=demo", "rl:posttrain.detach=true"], "'rl:posttrain.detach=true' is for a key that the pipeline itself sets")],
)  # fmt: skip
def test_wrong_overrides_are_named(overrides, named):
    with pytest.raises(InputError, match=named):
        planned(overrides)


def test_the_name_of_a_pipeline_may_be_0_and_has_one_key(own):
    stages = "evals: [test]\nstages: [{recipe: demo_sft}]"
    assert planned([own(f"run_id: 0\nseed: 1\n{stages}")]).run_id == "0"
    assert planned([own(f"id: 0\nseed: 1\n{stages}")]).run_id == "0"
    assert planned([own(f"run_id: a\nid: a\n{stages}")]).run_id == "a"
    assert "has run_id: a and id: b, two names of one key" in refused(own(f"run_id: a\nid: b\n{stages}"))
