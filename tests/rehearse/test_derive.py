"""The launch that rehearses a recipe: what stays, what becomes small, and whose words win."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths, preflight
from posttrain_verl.compose import compose
from posttrain_verl.preflight import data
from posttrain_verl.rehearse import small_run
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl.composed import Composed

LIBRARY = sorted(path.stem for path in paths.recipes_dir().glob("*.yaml") if not path.stem.startswith("demo_"))
SAME = {
    "rl": ("algorithm.adv_estimator", "algorithm.norm_adv_by_std_in_grpo", "algorithm.use_kl_in_reward",
           "algorithm.filter_groups.enable", "reward.reward_manager.name", "actor_rollout_ref.actor.loss_agg_mode",
           "actor_rollout_ref.actor.policy_loss.loss_mode", "actor_rollout_ref.actor.clip_ratio_high",
           "actor_rollout_ref.actor.use_kl_loss", "actor_rollout_ref.actor.optim.lr", "actor_rollout_ref.model.lora_rank",
           "actor_rollout_ref.rollout.temperature"),
    "dpo": ("preference.loss", "preference.beta", "preference.nll_weight", "optim.lr", "model.lora_rank"),
    "sft": ("optim.lr", "optim.lr_scheduler_type", "model.lora_rank", "model.target_modules"),
}  # fmt: skip


def rehearsed(planned: Composed, folder: Path, *more: str) -> Composed:
    return small_run.compose_rehearsal(planned, folder / "home", folder / "model", "first", *more)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_recipe_stays_and_can_launch(name, tmp_path):
    planned = compose([f"recipe={name}", "hardware=8xh100", f"posttrain.data_dir={tmp_path}"])
    small = rehearsed(planned, tmp_path)
    for key in SAME[planned.stage.name]:
        assert OmegaConf.select(small.verl, key) == OmegaConf.select(planned.verl, key), key
    assert small.model == str(tmp_path / "model")
    assert small.verl.trainer.total_training_steps == 2
    found = [problem.what for problem in blocking(preflight.run_checks(small, skip=("model",)).problems)]
    assert found == [f"{file} is missing" for file in data.list_data_files(small) if file.parent != small.data_dir]


def test_pairs_are_rehearsed_where_they_are(tmp_path):
    """A mix in their place has none: a model must have written them."""
    planned = compose(["recipe=math_dpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}"])
    for file in data.list_data_files(planned):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    small = rehearsed(planned, tmp_path)
    assert small.verl.data.train_files == planned.verl.data.train_files
    assert (small.settings.batch().prompts, small.settings.batch().held) == (4, 4), "4 pairs, of which 2 pass at once"


def test_what_the_user_set_for_gpus_does_not_reach_the_cpu(tmp_path):
    rollout = "actor_rollout_ref.rollout"
    planned = compose(["recipe=math_grpo", "hardware=8xh100", "trainer.nnodes=2", f"{rollout}.tensor_model_parallel_size=4",
                       f"{rollout}.n=16", f"{rollout}.temperature=0.7", f"posttrain.data_dir={tmp_path}"])  # fmt: skip
    small = rehearsed(planned, tmp_path)
    assert small.verl.trainer.nnodes == 1
    assert small.verl.actor_rollout_ref.rollout.tensor_model_parallel_size == 1
    assert small.verl.actor_rollout_ref.rollout.n == 4
    assert small.verl.actor_rollout_ref.rollout.temperature == 0.7


def test_its_own_data_where_it_is_there(tmp_path):
    planned = compose(["recipe=math_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}"])
    assert small_run.rehearsal_mix(planned) == "embedded"
    for name in ("rl_train", "rl_val"):
        (tmp_path / "math").mkdir(exist_ok=True)
        (tmp_path / "math" / f"{name}.parquet").touch()
    assert small_run.rehearsal_mix(planned) == "math"
    assert rehearsed(planned, tmp_path).verl.data.train_files == str(tmp_path / "math" / "rl_train.parquet")


def test_a_code_recipe_is_rehearsed_on_code(tmp_path):
    planned = compose(["recipe=code_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}"])
    assert rehearsed(planned, tmp_path).posttrain.mix.name == "embedded_code"


@pytest.mark.parametrize(
    ("asks", "mix"),
    [("posttrain.mix.prompts.default.answer=code", "embedded_code"), ("posttrain.mix.name=decoded", "embedded"),
     *((f"posttrain.evals={name}", "embedded_code") for name in ("[humaneval_plus]", "[mbpp_plus]", "[mbpp]", "humaneval")),
     ("posttrain.evals=[gsm8k]", "embedded")],
)  # fmt: skip
def test_a_recipe_writes_programs_if_a_prompt_asks_for_code(asks, mix, tmp_path):
    planned = compose(["recipe=math_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}", asks])
    assert small_run.rehearsal_mix(planned) == mix


@pytest.mark.parametrize(("name", "updates"), [("math_grpo", 2), ("math_drgrpo", 2), ("math_dapo", 2), ("math_ppo", 2)])
def test_several_optimizer_steps_a_batch_stay_several(name, updates, tmp_path):
    small = rehearsed(compose([f"recipe={name}", "hardware=8xh100", f"posttrain.data_dir={tmp_path}"]), tmp_path).verl
    assert small.data.train_batch_size // small.actor_rollout_ref.actor.ppo_mini_batch_size == updates


def test_the_recipes_own_reward_is_called_inside_the_rehearsals(tmp_path):
    own = compose(["recipe=math_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}",
                   "reward.custom_reward_function.path=mine.py", "reward.custom_reward_function.name=score",
                   "reward.custom_reward_function.reward_kwargs.mode=strict"])  # fmt: skip
    reward = rehearsed(own, tmp_path).verl.reward.custom_reward_function
    assert (reward.path, reward.name) == ("pkg://posttrain_verl.rehearse.reward", "compute_score")
    assert reward.reward_kwargs == {
        "mode": "strict",
        "rehearsed": {"path": str(Path("mine.py").absolute()), "name": "score"},
    }
