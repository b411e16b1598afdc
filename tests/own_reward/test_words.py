"""`reward=` and `reward_kwargs.` as overrides: VeRL's keys with absolute paths, in recipes, sweeps and on clusters."""

import pytest
import yaml

from posttrain_verl.clusters import kuberay, remote_launch
from posttrain_verl.compose import compose
from posttrain_verl.overrides import read_overrides, rewrite_reward
from posttrain_verl.rehearse import small_run
from posttrain_verl.run import resume
from posttrain_verl.terminal.problem import InputError

KEY = "reward.custom_reward_function"
LAUNCH = ["recipe=math_grpo", "hardware=cpu", "base_model=tiny"]


def function_of(composed):
    return composed.verl.reward.custom_reward_function


def test_words_become_keys_of_verl(here):
    one = compose([*LAUNCH, "reward=my_reward.py:score", "reward_kwargs.partial=0.2", "+reward_kwargs.name=a"])
    found = function_of(one)
    assert (found.path, found.name) == (str(here / "my_reward.py"), "score")
    assert found.reward_kwargs == {"partial": 0.2, "name": "a"}
    assert {f"{KEY}.path", f"{KEY}.name", f"{KEY}.reward_kwargs.partial"} <= one.user_keys
    assert one.settings.reward.own_reward.word == f"{here}/my_reward.py:score"


def test_our_rewards_are_not_ones_own_and_take_arguments_too():
    one = compose([*LAUNCH, "reward_kwargs.mode=strict"])
    assert one.settings.reward.own_reward is None and function_of(one).reward_kwargs == {"mode": "strict"}
    assert compose([*LAUNCH, "reward=pkg://reward_fns"]).settings.reward.own_reward is None


def test_verls_own_group_keeps_its_meaning():
    assert rewrite_reward("reward=reward") is None
    assert function_of(compose([*LAUNCH, "reward=reward"])).name == "compute_score"


@pytest.mark.parametrize("word", ["my_reward", "my_reward.py:a:b", "score"])
def test_what_names_no_reward_is_refused_with_the_form(word):
    with pytest.raises(InputError, match=r"neither FILE.py:NAME nor pkg://MODULE:NAME"):
        compose([*LAUNCH, f"reward={word}"])


def test_a_sweep_over_rewards(here):
    asked = read_overrides(["recipe=math_grpo", "reward=a.py:score,b.py:score"], sweep=True)
    assert asked.rewritten[1:] == [f"++{KEY}.path='{here}/a.py','{here}/b.py'", f"++{KEY}.name=score"]
    with pytest.raises(InputError, match="several names"):
        read_overrides(["recipe=math_grpo", "reward=a.py:one,b.py:two"], sweep=True)


def recipe(folder, path):
    (folder / "recipes").mkdir(exist_ok=True)
    text = {"defaults": ["/rl", "_self_"], "reward": {"custom_reward_function": {"path": path, "name": "score"}},
            "algorithm": {"adv_estimator": "grpo"}}  # fmt: skip
    (folder / "recipes/mine.yaml").write_text(yaml.safe_dump(text))


def test_a_recipe_names_a_file_of_the_current_folder_or_beside_itself(here):
    recipe(here, "my_reward.py")
    launch = ["recipe=mine", "hardware=cpu", "base_model=tiny"]
    assert function_of(compose(launch)).path == str(here / "my_reward.py")
    (here / "recipes/beside.py").write_text((here / "my_reward.py").read_text())
    recipe(here, "beside.py")
    assert function_of(compose(launch)).path == str(here / "recipes/beside.py")
    (here / "beside.py").write_text("")
    assert function_of(compose(launch)).path == str(here / "beside.py"), "the current folder comes first"


def test_a_rehearsal_calls_it_inside_its_own(here, tmp_path):
    planned = compose(["recipe=math_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}", "reward=my_reward.py:score",
                       "reward_kwargs.partial=0.2"])  # fmt: skip
    small = small_run.compose_rehearsal(planned, tmp_path, tmp_path / "model", "first")
    assert function_of(small).path == "pkg://posttrain_verl.rehearse.reward"
    assert small.settings.reward.own_reward == planned.settings.reward.own_reward


RAY = ["cluster=ray", "address=http://h:1", "hardware=cpu"]


@pytest.mark.parametrize("named", ["reward=my_reward.py:score", ""])
def test_the_file_is_sent_with_a_job(here, named):
    recipe(here, "my_reward.py")
    composed = compose([*RAY, "recipe=mine", "base_model=tiny", *([named] if named else [])])
    place = here / "parcel"
    place.mkdir()
    there = remote_launch.pack_working_dir(composed, place)[f"{KEY}.path"]
    assert (place / there).read_text() == (here / "my_reward.py").read_text()
    overrides = remote_launch.remote_overrides(composed, "1", {f"{KEY}.path": there})
    assert compose(
        [each for each in overrides if not each.startswith("cluster")]
    ).verl.reward.custom_reward_function.path.endswith(there)


def test_a_package_is_not_sent_and_keeps_its_name(here):
    composed = compose([*RAY, "recipe=math_grpo", "base_model=tiny", "reward=pkg://mine.rewards:score"])
    (here / "parcel").mkdir()
    assert remote_launch.pack_working_dir(composed, here / "parcel")[f"{KEY}.path"] == "pkg://mine.rewards"


def test_kuberay_mounts_the_file_beside_the_recipe(here):
    composed = compose(["recipe=math_grpo", "cluster=kuberay", "hardware=8xh100", "reward=my_reward.py:score",
                        "posttrain.cluster.image=i", "posttrain.cluster.claim=c"])  # fmt: skip
    recipes, job = kuberay.build_manifests(composed, "1")
    assert recipes["data"]["recipes.my_reward.py"] == (here / "my_reward.py").read_text()
    assert f"{KEY}.path=/posttrain/recipes/my_reward.py" in job["spec"]["entrypoint"]


def test_a_resume_takes_no_other_reward():
    with pytest.raises(InputError, match="takes no reward"):
        resume.read_request(["run=mine", "reward=my_reward.py:score"])
    with pytest.raises(InputError, match=r"takes no reward_kwargs\.partial"):
        resume.read_request(["run=mine", "reward_kwargs.partial=1"])
