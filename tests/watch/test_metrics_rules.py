"""The rules on metrics: each on lines as VeRL 0.9.1 writes them, one that must fire and one that must not."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.verl.stage import stage_named
from posttrain_verl.watch import metric_rules
from posttrain_verl.watch.watcher import Watch

RUN = stage_named("rl").settings(OmegaConf.create({}))


def settings(**changes):
    file = OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml")
    merged = OmegaConf.merge(file, changes)
    return OmegaConf.to_container(merged)


def fired(lines, **changes):
    """Rule -> the steps in which it fired."""
    found = {}
    rules = metric_rules.make_metric_rules(settings(**changes), RUN)
    for step, line in enumerate(lines, start=1):
        for name, rule in rules.items():
            if rule.find_fault(line):
                found.setdefault(name, []).append(step)
    return found


GRPO = {  # a good on-policy step: the loss is 0 by construction
    "actor/loss": 0.0, "actor/pg_loss": 0.0, "actor/grad_norm": 0.4, "actor/entropy": 2.1,
    "critic/score/mean": 0.5, "critic/rewards/mean": 0.5, "critic/advantages/max": 1.2, "critic/advantages/min": -1.4,
    "response_length/clip_ratio": 0.1, "training/rollout_actor_probs_pearson_corr": 0.999, "rollout_corr/kl": 1e-4,
    "reward/verifier_error/mean": 0.0, "failed_answers/share": 0.0,
}  # fmt: skip
SFT = {"train/loss": 2.0, "train/grad_norm": 1.1}


def test_a_good_run_is_left_alone():
    assert fired([GRPO] * 200) == {}


def test_a_loss_of_zero_is_no_alarm_in_grpo_and_one_in_sft():
    assert fired([GRPO | {"actor/loss": 0.0}] * 5) == {}
    assert fired([SFT | {"train/loss": 0.0}] * 3) == {"sft_zero_loss": [3]}
    assert fired([SFT, SFT | {"train/loss": 0.0}] * 5) == {}, "a batch without an answer that fits"


BROKEN = pytest.mark.parametrize("value", [None, float("nan"), float("inf")])


@pytest.mark.parametrize("key", ["actor/loss", "critic/score/mean"])
@BROKEN
def test_what_is_not_finite(key, value):
    assert fired([GRPO, GRPO | {key: value}, GRPO]) == {"non_finite": [2]}


@pytest.mark.parametrize("good", [GRPO, SFT])
@BROKEN
def test_a_gradient_that_is_not_finite_is_skipped_by_verl_and_ends_a_run_only_if_it_stays(good, value):
    key = next(key for key in good if key.endswith("grad_norm"))
    bad = good | {key: value}
    assert fired([good, bad, bad, good] * 5) == {}
    assert fired([good, bad, bad, bad]) == {"non_finite_gradient": [4]}


def test_nan_in_sft_and_in_a_validation():
    assert fired([SFT | {"train/loss": None}]) == {"non_finite": [1]}
    assert fired([{"val/loss": None}]) == {"non_finite": [1]}


def test_gradient_of_exactly_zero():
    zero = GRPO | {"actor/grad_norm": 0.0}
    assert fired([zero, GRPO, zero, zero, zero]) == {"zero_gradient": [4]}
    assert fired([GRPO | {"actor/grad_norm": 1e-12}] * 5) == {}


def test_groups_without_variance():
    flat = GRPO | {"critic/advantages/max": 0.0, "critic/advantages/min": 0.0, "actor/grad_norm": 0.0}
    assert fired([flat] * 10) == {"no_variance": [10]}
    assert fired([flat] * 9 + [GRPO] + [flat] * 9) == {}
    solved = flat | {"critic/score/mean": 1.0}
    assert fired([solved] * 30) == {"reward_saturated": [20]}, "a warning: a solved task is the end of a good run"
    assert fired([flat | {"distillation/loss": 0.3, "actor/grad_norm": 0.2}] * 30) == {}, "it learns from a teacher"


def test_a_policy_that_is_sure_correlates_by_its_rounding_only():
    sure = GRPO | {"actor/entropy": 0.005, "training/rollout_actor_probs_pearson_corr": 0.4}
    assert fired([sure] * 10) == {"entropy_collapse": [5]}, "a warning"
    assert fired([sure | {"rollout_corr/kl": 0.9}] * 3) == {"mismatch": [3]}
    assert fired([sure | {"actor/entropy": 0.02}] * 3) == {"mismatch": [3]}, (
        "the demo's policy, which correlates by 0.99999"
    )


def test_a_line_that_says_nothing_does_not_break_the_row():
    flat = GRPO | {"critic/advantages/max": 0.0, "critic/advantages/min": 0.0}
    assert fired(([flat] * 5 + [{"val-core/gsm8k/acc/mean@1": 0.2}]) * 2) == {"no_variance": [11]}


@pytest.mark.parametrize(
    ("rule", "change", "steps"),
    [
        ("reward_zero", {"critic/score/mean": 0.0}, 20),
        ("reward_saturated", {"critic/score/mean": 1.0}, 20),
        ("entropy_collapse", {"actor/entropy": 0.001}, 5),
        ("length_at_cap", {"response_length/clip_ratio": 0.95}, 5),
        ("mismatch", {"training/rollout_actor_probs_pearson_corr": 0.5}, 3),
        ("mismatch", {"rollout_corr/kl": 2.0}, 3),
        ("verifier_errors", {"reward/verifier_error/mean": 0.5}, 3),
    ],
)
def test_a_threshold_passed_so_often(rule, change, steps):
    assert fired([GRPO | change] * (steps + 5)) == {rule: [steps]}
    assert fired(([GRPO | change] * (steps - 1) + [GRPO]) * 2) == {}


def dpo(step, **changes):
    """A line of a healthy run: the chosen answers lose a little, then level off, and accuracy rises to 1."""
    level = -0.5 - 2.0 * (1 - 0.97**step)
    values = {
        "loss": 0.69 * 0.98**step + 0.01,
        "grad_norm": 1.0,
        "accuracy": min(1.0, 0.5 + step / 100),
        "chosen_logp": level,
    }
    return {f"train/{name}": value for name, value in (values | changes).items()} | {"training/global_step": step}


def test_a_good_run_of_dpo_is_left_alone():
    assert fired([dpo(step) for step in range(1, 300)]) == {}
    assert fired([{"val/loss": 0.1, "val/accuracy": 1.0}] * 5) == {}


def test_a_loss_that_leaves_its_beginning_far_behind():
    assert fired([dpo(1), *(dpo(step, loss=60.0) for step in range(2, 9))]) == {"diverging": [4]}
    assert fired([dpo(1), *(dpo(step, loss=3.0 if step % 2 else 60.0) for step in range(2, 30))]) == {}, "now and then"
    tiny = [dpo(1, loss=0.001), *(dpo(step, loss=0.4) for step in range(2, 30))]
    assert fired(tiny) == {}, "hundreds of times a loss that was near 0"
    assert fired([dpo(step, loss=2.0 + step / 30) for step in range(1, 40)]) == {}, "IPO may rise for a while"


def test_pairs_that_are_told_apart_before_anything_is_learned():
    assert fired([dpo(step, accuracy=1.0) for step in range(1, 30)]) == {"easy_pairs": [3]}
    one_batch_in_two = [dpo(step, accuracy=1.0 if step % 2 else 0.7) for step in range(1, 30)]
    assert fired(one_batch_in_two) == {}, "a few pairs may all be right by chance"
    assert fired([dpo(step, accuracy=1.0) for step in range(9, 40)]) == {}, "learned, and in a run that was resumed"


def test_chosen_answers_that_are_unlearned_without_end():
    assert fired([dpo(step, chosen_logp=-0.5 - step / 50) for step in range(1, 200)]) == {"chosen_falling": [80]}
    assert fired([dpo(step, chosen_logp=-0.5 - step / 500) for step in range(1, 200)]) == {}, "less than the threshold"
    quick = [dpo(step, chosen_logp=-0.5 - min(step, 30) / 15) for step in range(1, 300)]
    assert fired(quick) == {}, "two nats in 30 steps, and not one more"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_loss_of_pairs_that_is_not_finite(value):
    assert fired([dpo(1), dpo(2, loss=value)]) == {"non_finite": [2]}


def test_answers_whose_reward_raised_warn_at_the_first_and_stop_where_they_are_many():
    one, many = ({"failed_answers/share": share, "failed_answers/count": share * 256} for share in (1 / 256, 0.62))
    assert fired([GRPO, GRPO | many, GRPO | many, GRPO | many]) == {"failed_answer": [2], "failed_answers": [4]}
    rare = [GRPO, GRPO | one, GRPO | one, GRPO | one] * 20
    assert fired(rare) == {"failed_answer": [2]}, "a service that fails now and then: one warning"
    assert fired([GRPO | many, GRPO | many, GRPO] * 10) == {"failed_answer": [1]}, (
        "a service that was down for two steps"
    )


def test_the_reason_is_the_exception_of_the_reward(tmp_path):
    watch = Watch(tmp_path / "events.jsonl", settings(), RUN)
    bad = GRPO | {"failed_answers/share": 0.62, "failed_answers/count": 159}
    (warned,) = watch.step(1, bad, lambda: "TypeError: unsupported operand type(s) for -: 'int' and 'str'")
    assert (warned.level, warned.saw) == ("warn", "159 answers (62.0%) have no reward")
    watch.step(2, bad)
    (stop,) = watch.step(3, bad, lambda: "TypeError: bad operand")
    assert stop.level == "stop" and stop.why.startswith("TypeError: bad operand: the reward or the agent loop raised")


def test_sft_that_does_not_fall():
    assert fired([SFT] * 100) == {"sft_not_falling": [100]}
    assert fired([SFT | {"train/loss": 2.0 - step / 100} for step in range(100)]) == {}


def test_thresholds_and_off_come_from_the_settings():
    flat = GRPO | {"critic/advantages/max": 0.0, "critic/advantages/min": 0.0}
    assert fired([flat] * 10, no_variance={"steps": 2}) == {"no_variance": [2]}
    assert fired([flat] * 10, no_variance={"do": "off"}) == {}
