"""Options of the user's: in `./conf/<group>` by their name, and anywhere by the path of a yaml file."""

import shutil

import pytest
import yaml

from posttrain_verl import mixes, overrides, paths
from posttrain_verl.clusters import kuberay, remote_launch, slurm
from posttrain_verl.compose import compose
from posttrain_verl.evaluate import job
from posttrain_verl.preflight import config_form, data
from posttrain_verl.sweep import members
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Pipeline

MIX = """
seed: 3
sources:
  sums: {from: column_sums, data_source: embedded/chain_sum, params: {min_terms: 2, max_terms: 2}, size: 300}
splits:
  rl_train: {rows: 64, sources: {sums: 1}}
  rl_val: {rows: 16, sources: {sums: 1}}
"""
OWN = {  # what a user writes, and what must be there then
    "mix": (MIX, "seed", 3),
    "base_model": ("path: Org/Model-3B\nconfig: {hidden_size: 64}\n", "path", "Org/Model-3B"),
    "hardware": ("n_gpus_per_node: 4\nnnodes: 1\nmemory_gb: 96\n", "memory_gb", 96),
    "cluster": ("name: ray\naddress: http://head:8265\n", "send_at_most_mib", 100),
    "watch": ("silence: {seconds: 1234}\n", "retries", None),
}
RECIPE = "defaults: [/rl, override /mix: mine, _self_]\nalgorithm: {adv_estimator: grpo}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for group, (text, _, _) in OWN.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("ending", paths.YAML_SUFFIXES)
@pytest.mark.parametrize("group", OWN)
def test_an_option_of_the_current_folder_is_found_by_its_name_and_by_its_path(folder, group, ending):
    (folder / "conf" / group / "mine.yaml").rename(folder / "conf" / group / f"mine{ending}")
    _, key, value = OWN[group]
    hardware = [] if group == "hardware" else ["hardware=8xh100"]
    composed = compose(["recipe=math_grpo", *hardware, f"{group}=mine"])
    assert composed.posttrain[group][key] == value
    assert composed.posttrain[group].name == ("ray" if group == "cluster" else "mine")
    assert config_form.check_keys(composed) == []
    assert composed.typed_option(group) == "mine"
    shutil.move(f"conf/{group}/mine{ending}", f"elsewhere{ending}")
    composed = compose(["recipe=math_grpo", *hardware, f"{group}=elsewhere{ending}"])
    assert composed.posttrain[group][key] == value and composed.choices[group] == "elsewhere"
    assert composed.typed_option(group) == str(folder / f"elsewhere{ending}")
    with pytest.raises(InputError) as refused:  # what was registered for one launch is not there for the next
        compose(["recipe=math_grpo", *hardware, f"{group}=elsewhere"])
    assert "elsewhere is unknown" in str(refused.value)


def test_a_recipe_and_prep_find_the_same_mix(folder):
    (folder / "mine.yaml").write_text(RECIPE)
    composed = compose(["recipe=mine.yaml", "hardware=8xh100"])
    assert composed.recipe == "mine" and composed.posttrain.mix.seed == 3
    assert data.check_mix(composed) == []
    assert mixes.choose_mix("mine").config == composed.posttrain.mix
    assert data.check_mix(compose(["recipe=mine.yaml", "hardware=8xh100", "posttrain.mix.sead=3"])) != []


def test_the_hardware_does_not_replace_what_the_user_wrote(folder):
    (folder / "mine.yaml").write_text(RECIPE.replace("_self_", "override /base_model: mine, _self_"))
    composed = compose(["recipe=mine.yaml", "hardware=cpu"])
    assert (composed.choices["mix"], composed.choices["base_model"]) == ("mine", "mine")
    shipped = compose(["recipe=math_grpo", "hardware=cpu"])
    assert (shipped.choices["mix"], shipped.choices["base_model"]) == ("embedded", "smollm2_135m")


def test_a_misspelt_key_of_an_own_option_is_named(folder):
    (folder / "conf/hardware/mine.yaml").write_text("n_gpus_per_node: 4\nnnodes: 1\nmemory_gb: 96\nmemmory: 3\n")
    (folder / "conf/mix/mine.yaml").write_text(MIX.replace("rows: 64", "row: 64"))
    composed = compose(["recipe=math_grpo", "hardware=mine", "mix=mine"])
    assert "posttrain.hardware.memmory" in str(config_form.check_keys(composed))
    assert "posttrain.mix.splits.rl_train" in str(data.check_mix(composed))


def test_an_own_file_takes_the_place_of_a_shipped_one_only_if_it_is_ours(folder):
    shipped = (paths.conf_dir() / "mix/gsm8k.yaml").read_text()
    own = folder / "conf/mix/gsm8k.yaml"
    own.write_text(shipped.replace("seed: 17", "seed: 18"))
    assert compose(["recipe=math_grpo", "mix=gsm8k", "hardware=8xh100"]).posttrain.mix.seed == 18
    assert mixes.choose_mix("gsm8k").config["seed"] == 18
    own.write_text("batch_size: 3\n")  # of another program of Hydra's
    (folder / "conf/cluster/local.yaml").write_text("workers: 3\n")
    assert compose(["recipe=math_grpo", "mix=gsm8k", "hardware=8xh100"]).posttrain.mix.seed == 17


def test_pipelines_and_evaluations_are_found_too(folder):
    for group in ("pipeline", "eval"):
        (folder / "conf" / group).mkdir()
        (folder / "conf" / group / "mine.yaml").write_text((paths.conf_dir() / group / "math.yaml").read_text()
                                                          if group == "pipeline" else "mix: embedded\n")  # fmt: skip
        assert "mine" in paths.names(group)
    assert Pipeline(arguments=(), recipe="mine").file == folder / "conf/pipeline/mine.yaml"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (MIX, ["mix=conf/mix/mien.yaml"], "mix=conf/mix/mien.yaml is not a file"),
        ("- 1\n", ["mix=mine"], "it is not a mapping"),
        ("a: [\n", ["mix=mine"], "conf/mix/mine.yaml is not readable yaml"),
        (MIX, ["mix=two words.yaml"], "rename the file"),
    ],
)
def test_a_file_that_cannot_be_an_option(folder, text, words, said):
    (folder / "conf/mix/mine.yaml").write_text(text)
    (folder / "two words.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        compose(["recipe=math_grpo", "hardware=8xh100", *words])
    assert said in str(refused.value)


def test_two_files_of_one_name_in_a_sweep(folder):
    (folder / "a").mkdir()
    (folder / "a/mine.yaml").write_text(MIX)
    with pytest.raises(InputError) as refused:
        overrides.read_overrides(["recipe=math_grpo", "mix=a/mine.yaml,conf/mix/mine.yaml"], sweep=True)
    assert "have the same name" in str(refused.value)


def test_the_members_of_a_sweep_get_the_path(folder):
    (folder / "other.yaml").write_text(MIX)
    (folder / "own.yaml").write_text(RECIPE)
    asked = overrides.read_overrides(["recipe=own.yaml", "mix=other.yaml,mine"], sweep=True)
    assert asked.rewritten == ["recipe=own", "mix=other,mine"]
    assert [asked.typed_option(each) for each in ("mix=other", "mix=mine")] == [f"mix={folder}/other.yaml", "mix=mine"]
    record = members.Record(folder / "runs/multirun/s", "posttrain_verl.launch", [])
    member = record.member([asked.typed_option("recipe=own")])
    assert member.folder == str(folder / "runs/own/s-0")


def test_own_options_go_to_a_cluster(folder):
    (folder / "own.yaml").write_text(RECIPE)
    (folder / "w.yaml").write_text(OWN["watch"][0])
    words = ["recipe=own.yaml", "hardware=mine", "watch=w.yaml", "posttrain.run_id=it"]
    composed = compose([*words, "cluster=ray", "address=http://h:1"])
    place = folder / "parcel"
    place.mkdir()
    replaced = remote_launch.pack_working_dir(composed, place)
    there = remote_launch.remote_overrides(composed, "it", replaced)
    assert {"recipe=own", "hardware=mine", "watch=w"} <= set(there) and "recipe=own.yaml" not in there
    assert yaml.safe_load((place / "conf/mix/mine.yaml").read_text())["seed"] == 3
    assert yaml.safe_load((place / "conf/watch/w.yaml").read_text())["silence"]["seconds"] == 1234
    assert yaml.safe_load((place / "conf/hardware/mine.yaml").read_text())["settings"] == {
        "rl": [],
        "critic": [],
        "sft": [],
    }
    claim = ["cluster=kuberay", "posttrain.cluster.image=i:1", "posttrain.cluster.claim=c"]
    config_map, job = kuberay.build_manifests(compose([*words, *claim]), "it")
    template = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {f"{volume['name']}/{each['path']}": config_map["data"][each["key"]]
               for volume in template["volumes"] for each in volume.get("configMap", {}).get("items", ())}  # fmt: skip
    assert set(mounted) == {"recipes/own.yaml", "conf/mix/mine.yaml", "conf/hardware/mine.yaml", "conf/watch/w.yaml"}
    assert mounted["recipes/own.yaml"] == RECIPE
    script = slurm.sbatch_script(compose([*words, "cluster=slurm"]), folder / "runs/own/it")
    assert f"recipe={folder}/own.yaml" in script and f"watch={folder}/w.yaml" in script and "hardware=mine" in script


def test_nobody_builds_a_mix_that_the_launch_does_not_read(folder):
    files = ["data.train_files=a.parquet", "data.val_files=b.parquet"]
    composed = compose(["recipe=math_grpo", "hardware=cpu", *files])
    assert data.is_offline(composed) and not data.reads_offline_mix(composed)
    half = compose(["recipe=math_grpo", "hardware=cpu", files[0]])
    assert data.reads_offline_mix(half)
    assert "data.val_files is of the mix embedded" in str(data.check_data(half))
    assert "is of the mix" not in str(data.check_data(composed))


def test_a_broken_file_that_is_not_asked_for_is_in_nobodys_way(folder):
    (folder / "conf/mix/broken.yaml").write_text("name: [\n")
    (folder / "conf/hardware/foreign.yaml").write_text("{{ jinja }}: [\n")
    assert compose(["recipe=math_grpo", "hardware=8xh100", "mix=mine"]).posttrain.mix.name == "mine"
    with pytest.raises(InputError, match="is not readable yaml"):
        compose(["recipe=math_grpo", "hardware=8xh100", "mix=broken"])


def test_a_machine_is_one_node_unless_it_says_otherwise(folder):
    (folder / "conf/hardware/mine.yaml").write_text("n_gpus_per_node: 1\nmemory_gb: 24\n")
    assert compose(["recipe=math_grpo", "hardware=mine"]).posttrain.hardware.nnodes == 1


@pytest.mark.parametrize("text", ["bad: [\n", "", "prompt: {user: x}\n"])
def test_an_evaluation_that_declares_nothing_is_named(folder, text):
    (folder / "conf/eval").mkdir()
    (folder / "conf/eval/e.yaml").write_text(text)
    with pytest.raises(InputError, match="eval=e cannot be read"):
        job.choose_eval_set("e", folder / "data")


def test_the_command_that_builds_the_mix_names_its_folder_and_reward(folder):
    (folder / "my_reward.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1\n"
    )
    words = ["recipe=math_grpo", "hardware=8xh100", "mix=mine", "reward=my_reward.py:score", "data_dir=there"]
    command = data.mix_command(compose(words), "prep")
    assert (
        command == f"python -m posttrain_verl.prep mix=mine posttrain.data_dir=there reward={folder}/my_reward.py:score"
    )
    assert "is for RL: SFT takes no reward" in str(config_form.check_keys(compose(["recipe=math_sft", *words[1:]])))
