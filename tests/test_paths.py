"""Names of files beside others."""

from pathlib import Path

import pytest

from posttrain_verl import paths


@pytest.mark.parametrize(("name", "log"), [("a.json", "a.log"), ("lr0.1", "lr0.1.log"), ("lr0.1.json", "lr0.1.log")])
def test_a_dot_in_a_name_begins_no_suffix(name, log):
    assert paths.beside(Path("there", name), ".log") == Path("there", log)
