"""How many members run at a time: one on this machine, as many as its devices carry on a Ray cluster."""

from __future__ import annotations

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

from posttrain_verl import compose
from posttrain_verl.clusters import ray
from posttrain_verl.clusters import words as of_launch
from posttrain_verl.sweep.record import value_of


def at_once(words: list[str]) -> int:
    """Members at a time for a sweep of these words; `posttrain.at_once` decides if it is among them.

    Raises:
        InputError: the cluster does not answer.
    """
    if given := value_of(words, "posttrain.at_once"):
        return int(given)
    if value_of(words, "cluster") != "ray":
        return 1
    member = compose.compose([_first(word) for word in words if not word.startswith("hydra")])
    nodes, devices = of_launch.devices(member)
    return max(1, ray.devices(ray.address_of(member)) // (nodes * devices))


def _first(word: str) -> str:
    """The word with the first of the values that it names."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(override.sweep_string_iterator())
    return f"{override.get_key_element()}={first}"
