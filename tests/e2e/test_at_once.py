"""Four launches at the same moment, with one cache, one registry, and one folder of data, which nobody has built yet."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]
OF_EACH = {"POSTTRAIN_WARM_PYTHON": None}  # as launches of a user's have it: a warm Python each


@pytest.mark.parametrize(("recipe", "python"), [("math_sft", {}), ("math_grpo", OF_EACH)])
def test_four_at_the_same_moment(launch, tmp_path, recipe, python):
    variables = {"POSTTRAIN_CACHE": str(tmp_path / "cache"), **python}

    def one(_):
        return launch(recipe, f"posttrain.data_dir={tmp_path}/data", variables=variables)

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(one, range(4)))
    for run in runs:
        run.assert_done([1, 2])
        assert not run.segments
