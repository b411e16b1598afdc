"""Python functions of one line with assertions, for models small enough to learn on a CPU; generated offline::

    {"question": "f(x)=3*x+7", "answer": '{"test_list": ["assert f(0) == 7", ...], "test_setup_code": ""}',
     "solution": "```python\\ndef f(x):\\n    return 3*x+7\\n```"}

They stand in for the exercises of a code mix where there is no network: the reward runs the program as it runs any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from data_prep.sources.fenced import fenced
from data_prep.sources.source import Opened, Row, Source, SourceSpec, in_batches, whole_option

POINTS = (0, 1, -2)  # two would fix a linear function; the third catches one that bends


def item(factor: int, constant: int) -> Row:
    """The exercise to write `factor * x + constant`."""
    tests = [f"assert f({x}) == {factor * x + constant}" for x in POINTS]
    return {
        "id": f"linear_functions/{factor}-{constant}",
        "question": f"f(x)={factor}*x+{constant}",
        "answer": json.dumps({"test_list": tests, "test_setup_code": ""}),
        "solution": fenced(f"def f(x):\n    return {factor}*x+{constant}"),
    }


def _items(largest: int) -> Iterator[Row]:
    return (item(factor, constant) for factor in range(2, largest + 1) for constant in range(1, largest + 1))


def _open(spec: SourceSpec) -> Opened:
    largest = whole_option(spec.name, spec.options, "largest", 60, 2)
    return Opened({"options": {"largest": largest}}, in_batches(_items(largest)))


SOURCE = Source(
    kind="linear_functions",
    data_source="embedded_code/linear_functions",
    ability="code",
    uses=("sft", "rl", "eval"),
    role="adjacent",
    licence="Apache-2.0",
    origin="generated here",
    options=("largest",),
    open=_open,
)
