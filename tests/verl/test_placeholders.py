"""Stand-ins for missing packages: there while VeRL is imported, gone afterwards, and never in the place of what is installed."""

import importlib.util
import json
import sys

import pytest

from posttrain_verl.verl.single_worker import placeholders_for_missing

NAMES = frozenset({"nosuch_ray", "json"})


def test_what_modules_do_with_a_package_when_they_are_imported():
    with placeholders_for_missing(NAMES) as made:
        import nosuch_ray
        from nosuch_ray.util.scheduling import Strategy

        @nosuch_ray.remote(num_cpus=1)
        def work():
            return "as it was"

        class Message(nosuch_ray.BaseModel):
            text: str = nosuch_ray.Field(default="")

        assert work() == "as it was"
        assert not isinstance(3, nosuch_ray.actor.ActorHandle)
        assert Strategy | None and Message
    assert made == ["nosuch_ray", "nosuch_ray.util", "nosuch_ray.util.scheduling"]


def test_afterwards_the_package_is_missing_again():
    with placeholders_for_missing(NAMES):
        import nosuch_ray
    assert importlib.util.find_spec("nosuch_ray") is None
    with pytest.raises(ModuleNotFoundError, match="nosuch_ray"):
        import nosuch_ray  # noqa: F401


def test_what_is_installed_is_used_and_other_names_stay_missing():
    with placeholders_for_missing(NAMES) as made:
        assert importlib.import_module("json") is json
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("nosuch_numpy")
    assert made == [] and "json" in sys.modules
