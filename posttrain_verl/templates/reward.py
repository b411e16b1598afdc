"""The reward NAME: what an answer is worth. `score` is what the policy is trained on.

VeRL calls it for each answer, by name, in workers that import from the current folder:

    posttrain check recipe=RECIPE reward=FILE                 # calls it on golds of the data, and on an empty answer
    posttrain grade answers.jsonl reward=FILE                 # a file of answers: data_source, response, ground_truth
    posttrain launch recipe=RECIPE reward=FILE reward_kwargs.near_miss=0.2

It may be `async def`, for example to ask another model. It must return a score for any answer, also an empty one.
"""

import re
from typing import Any

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def compute_score(
    data_source: str,  # of the row: which kind of task it is
    solution_str: str,  # what the model wrote
    ground_truth: str,  # of the row: reward_model.ground_truth
    extra_info: dict[str, Any] | None = None,  # of the row, and what VeRL adds, such as num_turns
    near_miss: float = 0.1,  # an argument of your own: reward_kwargs.near_miss=0.2
    **_: Any,
) -> dict[str, float | str]:
    """1 for the right number at the end of the answer, `near_miss` for another one, 0 without one."""
    numbers = NUMBER.findall(solution_str.replace(",", ""))
    pred = numbers[-1] if numbers else ""
    right = bool(numbers) and float(pred) == float(ground_truth)
    return {
        "score": 1.0 if right else near_miss if numbers else 0.0,
        "acc": float(
            right
        ),  # 1 for a right answer: reports call its mean accuracy. Leave it out where nothing is right or wrong
        "pred": pred,  # the answer as it was read. Every answer has the same keys
    }
