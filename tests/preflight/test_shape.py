"""The form of the tree is VeRL's, or the launch is refused without a traceback."""

import pytest

from posttrain_verl import preflight
from posttrain_verl.compose import compose
from posttrain_verl.terminal.problem import InputError

CPU = ("hardware=cpu", "base_model=tiny", "mix=embedded")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer=3", "trainer=3 is a value where VeRL has keys"),
        ("~trainer", "trainer was removed, and VeRL reads it"),
        ("optim.lr.value=3", "optim.lr has keys below it where VeRL has a value"),
        ("trainer.total_training_steps={a:1}", "trainer.total_training_steps has keys below it where VeRL has a value"),
        ("data.train_batch_size=many", "data.train_batch_size=many is not a whole number"),
        ("data.train_batch_size=[8,16]", "data.train_batch_size=[8, 16] is not a whole number"),
        ("trainer.total_epochs=two", "trainer.total_epochs=two is not a whole number"),
        ("data.use_dynamic_bsz=3", "data.use_dynamic_bsz=3 is neither true nor false"),
        ("data.max_length=true", "data.max_length=true is not a whole number"),
        ("data.train_batch_size=null", "data.train_batch_size=null is not a whole number"),
        ("data.train_files=5", "data.train_files=5 is not text or list of text"),
        ("trainer.total_training_steps=many", "trainer.total_training_steps=many is not a whole number or null"),
        ("optim.betas=[0.9]", "optim.betas=[0.9] is not a list of number"),
        ("optim.lr_warmup_steps=0.5", "optim.lr_warmup_steps=0.5 is not a whole number or null"),
        ("+engine.mixed_precision=bf16", "engine.mixed_precision=bf16 is not a mapping or null"),
        ("trainer.project_name=${nowhere.to.be.found}", "an interpolation cannot be resolved"),
        ("checkpoint=none", "checkpoint=none is a value where VeRL has keys"),
    ],
)
def test_what_verl_cannot_read_is_one_message(word, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        problems = preflight.find_problems(compose(["recipe=math_sft", *CPU, word]))
    except InputError as error:  # a root of the tree: nothing below it can be looked at
        problems = error.problems
    assert any(message in problem.what for problem in problems)


def test_words_where_verl_takes_them():
    words = ("trainer.save_freq=after_each_epoch", "data.val_files=null", "trainer.test_freq=-1", "optim.lr=1")
    assert preflight.config_form.check_shape(compose(["recipe=math_sft", *CPU, *words])) == []


def test_removing_a_key_of_the_group_is_no_crash_of_another_check():
    problems = preflight.find_problems(compose(["recipe=math_grpo", *CPU, "~actor_rollout_ref.rollout", "data.lrr=1"]))
    assert [problem.what.split()[0] for problem in problems] == ["data.lrr", "actor_rollout_ref.rollout"]
