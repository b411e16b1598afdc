"""Problems that are generated offline: reasoning-gym's families, sums with column steps, and linear functions."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import product, starmap
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from data_prep.declaration import Positive, Whole
from data_prep.errors import DataError, Problem
from data_prep.sources.source import Opened, Row, Source, SourceSpec, fence_program, in_batches


# reasoning-gym: 105 families of verifiable tasks, generated offline from a seed.
# Licence Apache-2.0. A row of `create_dataset("gsm_symbolic", seed=7)`:
#     {"question": "At John's house, there is 3 times as much kiwi as apple. ...", "answer": "288",
#      "metadata": {"difficulty": 1.0, "answer_cot": "Let's solve this step by step: ...\n#### 288", ...}}
# Families whose metadata has a worked solution (`answer_cot`) also serve SFT.
class GeneratedSpec(SourceSpec):
    """`size` rows from `seed`, with the family's own settings in `params`."""

    params: Annotated[dict[str, Any], BeforeValidator(lambda params: params or {})] = Field(
        {}, description="write {setting: value}"
    )
    size: Positive = 1000
    seed: Whole = 0


class FamilySpec(GeneratedSpec):
    family: str = Field(description="name a family of reasoning-gym, such as gsm_symbolic")


def generate_rows(spec: GeneratedSpec, family: str, params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Raw rows of one family, which is set by `params`. Raises DataError if reasoning-gym does not know it so."""
    import reasoning_gym

    try:
        rows = reasoning_gym.create_dataset(family, size=spec.size, seed=spec.seed, **params)
    except (ValueError, TypeError, AssertionError) as error:
        what = f"reasoning-gym refuses {family!r}: {error}"
        raise DataError(Problem(f"mix.sources.{spec.name}.params", what, "see its configuration")) from None
    return (rows[index] for index in range(len(rows)))


def generator_provenance(spec: GeneratedSpec, family: str) -> dict[str, Any]:
    """What makes these rows again."""
    return {"revision": f"reasoning-gym {version('reasoning-gym')}", "family": family, "options": spec.options()}


def _family_item(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = row["metadata"]
    difficulty = metadata.get("difficulty")
    return {
        "id": f"{metadata['source_dataset']}/{metadata['source_index']}",
        "question": row["question"],
        "answer": None if row["answer"] is None else str(row["answer"]),
        "solution": metadata.get("answer_cot"),
        "difficulty": float(difficulty) if isinstance(difficulty, int | float) else None,
    }


def _open_family(spec: FamilySpec) -> Opened:
    rows = generate_rows(spec, spec.family, spec.params)
    return Opened(generator_provenance(spec, spec.family), in_batches(map(_family_item, rows)))


REASONING_GYM = Source(
    kind="reasoning_gym",
    data_source="reasoning_gym/{family}",
    licence="Apache-2.0",
    origin="PyPI reasoning-gym",
    open=_open_family,
    spec=FamilySpec,
)


# Sums of two numbers with worked column steps, for models small enough to learn on a CPU.
# The expressions are reasoning-gym's family `chain_sum` (Apache-2.0, offline) with the mix's `params`; prompt and steps
# are ours, in plain ASCII and short, since a byte-level model pays for every character:
#     {"question": "47+85=", "answer": "132", "solution": "7+5+0=12\n4+8+1=13\n#### 132", "difficulty": 1.0}
# Difficulty is the number of carries or borrows. A subtraction below zero is worked the other way round and negated.
_TWO_TERMS = re.compile(r"(\d+) ([+-]) (\d+)")
# reasoning-gym draws with repetition: ask for more than the distinct sums there are, the build drops the repeats.
_SUM_DEFAULTS = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}


def column_steps(left: int, sign: str, right: int) -> tuple[list[str], int]:
    """The column-by-column steps of left +- right (left >= right for '-'), and how many carries they have."""
    steps, carry, carries = [], 0, 0
    width = max(len(str(left)), len(str(right)))
    for place in range(width):
        a, b = left // 10**place % 10, right // 10**place % 10
        carried = f"{sign}{carry}"  # always written: steps of one length are what a small model learns soonest
        total = a + b + carry if sign == "+" else a - b - carry
        if total < 0:
            a, total = a + 10, total + 10
            carry = 1
        else:
            carry = total // 10
        carries += carry
        steps.append(f"{a}{sign}{b}{carried}={total}")
    return steps, carries


class SumsSpec(GeneratedSpec):
    """Sums with these operators only."""

    operators: Annotated[tuple[Literal["+", "-"], ...], Field(min_length=1)] = Field(
        ("+", "-"), description='write ["+"], ["-"] or both'
    )


def _sum_items(spec: SumsSpec) -> Iterator[Row]:
    for index, row in enumerate(generate_rows(spec, "chain_sum", _SUM_DEFAULTS | spec.params)):
        expression = row["metadata"]["expression"]
        match = _TWO_TERMS.fullmatch(expression)
        if match is None:
            what = f"make {expression!r}, which is not a sum of two non-negative numbers"
            raise DataError(Problem(f"mix.sources.{spec.name}.params", what, "keep min_terms and max_terms at 2"))
        left, sign, right = int(match[1]), match[2], int(match[3])
        if sign not in spec.operators:
            continue
        negative = sign == "-" and left < right
        steps, carries = column_steps(*((right, sign, left) if negative else (left, sign, right)))
        answer = left + right if sign == "+" else left - right
        yield {
            "id": f"chain_sum/{index}",
            "question": f"{left}{sign}{right}=",
            "answer": str(answer),
            "solution": "\n".join([*([f"-({right}-{left})"] if negative else []), *steps, f"#### {answer}"]),
            "difficulty": float(carries),
        }


def _open_sums(spec: SumsSpec) -> Opened:
    return Opened(generator_provenance(spec, "chain_sum"), in_batches(_sum_items(spec)))


COLUMN_SUMS = Source(
    kind="column_sums",
    data_source="embedded/chain_sum",
    licence="Apache-2.0",
    origin="PyPI reasoning-gym",
    open=_open_sums,
    spec=SumsSpec,
)


# Python functions of one line with assertions, for models small enough to learn on a CPU; generated offline:
#     {"question": "f(x)=3*x+7", "answer": '{"test_list": ["assert f(0) == 7", ...], "test_setup_code": ""}',
#      "solution": "```python\ndef f(x):\n    return 3*x+7\n```"}
# They stand in for the exercises of a code mix where there is no network: the reward runs the program as it runs any.
POINTS = (0, 1, -2)  # two would fix a linear function; the third catches one that bends


def linear_item(factor: int, constant: int) -> Row:
    tests = [f"assert f({x}) == {factor * x + constant}" for x in POINTS]
    return {
        "id": f"linear_functions/{factor}-{constant}",
        "question": f"f(x)={factor}*x+{constant}",
        "answer": json.dumps({"test_list": tests, "test_setup_code": ""}),
        "solution": fence_program(f"def f(x):\n    return {factor}*x+{constant}"),
    }


class FunctionsSpec(SourceSpec):
    """Functions whose factor and constant are at most `largest`."""

    largest: Annotated[Whole, Field(ge=2)] = 60


def _open_linear(spec: FunctionsSpec) -> Opened:
    pairs = product(range(2, spec.largest + 1), range(1, spec.largest + 1))
    return Opened({"options": {"largest": spec.largest}}, in_batches(starmap(linear_item, pairs)))


LINEAR_FUNCTIONS = Source(
    kind="linear_functions",
    data_source="embedded_code/linear_functions",
    ability="code",
    role="adjacent",
    licence="Apache-2.0",
    origin="generated here",
    open=_open_linear,
    spec=FunctionsSpec,
)
