"""What VeRL's own example scripts set passes, or is refused for a reason that holds for the installed VeRL."""

from pathlib import Path

import pytest
import yaml

from posttrain_verl import preflight
from posttrain_verl.compose import compose
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl.settings import format_value

SCRIPTS = yaml.safe_load(Path(__file__).with_name("published_scripts.yaml").read_text())["scripts"]
NOT_THE_SCRIPTS = ("model", "data", "manifest", "disk")  # what is on this machine


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass(name):
    script = SCRIPTS[name]
    keys = [f"{key}={format_value(value)}" for key, value in script["keys"].items()]
    words = [f"recipe={script.get('recipe', 'math_grpo')}", f"hardware={script.get('gpus', '8xh100')}"]
    composed = compose([*words, "mix=embedded", f"base_model={script['base_model']}", *keys])
    found = blocking(preflight.find_problems(composed, skip=NOT_THE_SCRIPTS))
    refused = script.get("refused", [])
    assert [problem.what for problem in found if not any(key in problem.what for key in refused)] == []
    assert len(found) >= len(refused), "the script passes now"


def test_a_group_of_one_needs_a_teacher_that_is_followed_alone():
    words = ["recipe=math_grpo", "hardware=8xh100", "mix=embedded", "actor_rollout_ref.rollout.n=1"]
    teacher = ["distillation.enabled=true", "distillation.n_gpus_per_node=8", "distillation.nnodes=1"]
    alone = "distillation.distillation_loss.use_task_rewards=false"
    for more, refused in (([], True), (teacher, True), ([alone], True), ([*teacher, alone], False)):
        said = [problem.what for problem in compose([*words, *more]).settings.batch_problems()]
        assert any("compares the answers of a group" in what for what in said) == refused, more


def test_without_chunked_prefill_the_batch_grows_to_one_sequence(monkeypatch):
    """VeRL raises it, so it is a warning, and memory is planned for what it is raised to."""
    words = ["recipe=math_grpo", "hardware=8xh100", "mix=embedded", "base_model=qwen3_4b",
             "actor_rollout_ref.rollout.max_model_len=40960"]  # fmt: skip
    off = compose([*words, "actor_rollout_ref.rollout.enable_chunked_prefill=false"])
    (said,) = [problem for problem in preflight.find_problems(off, skip=NOT_THE_SCRIPTS) if "chunked" in problem.what]
    assert said.level == "warning" and "max_model_len=40960" in said.what
    shape = preflight.capacity.known_shape(off.model, off.posttrain.base_model)
    planned = {one.settings.rollout.describe(shape, 4096, False, False).batched_tokens for one in (off, compose(words))}
    assert planned == {40960, 8192}
