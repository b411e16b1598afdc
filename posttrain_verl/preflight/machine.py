"""Whether the machine that a launch is planned for is this one: only then its disk, ports and memory say something."""

from __future__ import annotations

from functools import cache

from posttrain_verl.compose import Composed
from posttrain_verl.preflight.report import CannotTell


def is_here(composed: Composed) -> bool:
    """Whether it is: no cluster is named, and it is planned for a CPU, or this machine has an NVIDIA driver."""
    ours = composed.posttrain
    return ours.cluster.get("name", "local") == "local" and (ours.hardware.name == "cpu" or _has_driver())


def require_here(composed: Composed) -> None:
    """Raise `CannotTell` when the launch is planned for another machine."""
    if not is_here(composed):
        ours = composed.posttrain
        where = f"hardware={ours.hardware.name}" if ours.cluster.name == "local" else f"cluster={ours.cluster.name}"
        raise CannotTell(f"{where} is another machine")


@cache
def _has_driver() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True
