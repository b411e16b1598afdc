"""Whether the machine that a launch is planned for is this one: only then its disk, ports and memory say something."""

from __future__ import annotations

from functools import cache

from posttrain_verl.compose import Composed
from posttrain_verl.preflight.report import CannotTell


def is_here(composed: Composed) -> bool:
    """Whether it is: planned for a CPU, or this machine has an NVIDIA driver."""
    return composed.posttrain.hardware.name == "cpu" or _has_driver()


def require_here(composed: Composed) -> None:
    """Raise `CannotTell` when the launch is planned for another machine."""
    if not is_here(composed):
        raise CannotTell(f"hardware={composed.posttrain.hardware.name} is another machine")


@cache
def _has_driver() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True
