"""DAPO-Math-17k: competition problems with integer answers, for RL (Apache-2.0)::

    {"data_source": "math_dapo", "prompt": [{"role": "user", "content": "Solve the following math problem step by
     step. ...\\n\\nIn triangle $ABC$, ...\\n\\nRemember to put your answer on its own line after \\"Answer:\\"."}],
     "ability": "MATH", "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
     "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"}}

The published file repeats each problem about a hundred times: the build's exact dedup leaves about 17,000. The
instruction around the problem is taken off, since prompts are the mix's.
"""

from __future__ import annotations

import re

from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text

FRAME = re.compile(
    r"^Solve the following math problem step by step\..*?\n\n|\n\nRemember to put your answer.*$", re.DOTALL
)


def bare(row: Row) -> str:
    """The problem without the instruction around it. Raises BadRow if there is no user message."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[-1], dict):
        raise BadRow(f"prompt is {str(prompt)[:60]!r}, not a list of messages")
    return FRAME.sub("", text(prompt[-1], "content"))


def item(row: Row) -> Row:
    """One row of the set as an item."""
    reward = row.get("reward_model")
    if not isinstance(reward, dict):
        raise BadRow(f"reward_model is {str(reward)[:60]!r}, not a mapping")
    return {"question": bare(row), "answer": text(reward, "ground_truth")}


SOURCE = hub_source("dapo_math", "BytedTsinghua-SIA/DAPO-Math-17k", item, licence="Apache-2.0", uses=("rl",))
