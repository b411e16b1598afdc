"""Which replay buffer a trainer's mode gets."""

import pytest


def test_a_reward_that_is_a_number_has_no_parts():
    pytest.importorskip("verl.trainer.ppo.v1.replay_buffer")
    from posttrain_verl.verl.replay_buffer import part_means

    graded = [{"score": 1.0, "acc": 1.0, "pred": "2"}, {"score": 0.0, "acc": 0.0}]
    assert part_means(graded) == {"reward/score/mean": 0.5, "reward/acc/mean": 0.5}
    assert part_means([{"acc": 0.1}, {}]) == {}  # as VeRL keeps a number


@pytest.mark.parametrize(
    ("keys", "grades", "wanted", "found"),
    [
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0"], [{"score": 1.0}] * 4, 4, {"failed_answers/share": 0.0}),
        (["a_0_0", "a_0_1", "a_0_2"], [{"acc": 1.0}] * 3, 4, {"failed_answers/share": 0.75, "failed_answers/count": 3}),
        (["a_0_0", "a_1_0"], [{"acc": 0.0, "error": "no"}, {"acc": 0.0, "timeout": True}], 2,
         {"failed_answers/share": 1.0, "failed_answers/count": 2}),
        (["a_0_0"], [{"score": 0.0, "error": "of the user's own"}], 1, {"failed_answers/share": 0.0}),
        (["a_0_0"], [{}], 0, {}),
    ],
)  # fmt: skip
def test_answers_without_a_reward_are_counted(keys, grades, wanted, found):
    pytest.importorskip("verl.trainer.ppo.v1.replay_buffer")
    from posttrain_verl.verl.replay_buffer import failures

    assert failures(keys, grades, wanted) == found


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_an_asynchronous_mode_gets_the_buffer_that_knows_how_old_a_rollout_is(mode):
    verls = pytest.importorskip("verl.trainer.ppo.v1.replay_buffer")
    from posttrain_verl.verl import replay_buffer

    buffer = replay_buffer.build_replay_buffer(
        trainer_mode=mode, trainer_config={}, max_off_policy_threshold=2, max_off_policy_strategy="drop",
        sampler_kwargs={"train_batch_size": 4}, refill_fn=lambda count: None,
    )  # fmt: skip
    assert isinstance(buffer, replay_buffer.PromptReplayBuffer)
    assert isinstance(buffer, verls.ReplayBufferAsync) == (mode != "sync")
    assert buffer.poll_interval == replay_buffer.POLL_SECONDS
    buffer.finished_keys["train"] = {"old", "new"}
    buffer.prompt_global_steps["train"] = {"old": 1, "new": 3}
    if mode != "sync":
        assert buffer._stale_terminal_keys(3, "train") == {"old"}
