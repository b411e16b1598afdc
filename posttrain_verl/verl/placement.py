"""The CPUs that VeRL 0.9.1 asks Ray for beside each device. Ray counts them and reserves no core.

A placement group that no node can hold waits for ever, and VeRL says nothing.
"""

from __future__ import annotations

CPUS_BESIDE_A_DEVICE = {"sft": 10, "rl": 3}  # RayResourcePool's default; ResourcePoolManager
OTHER_PROCESSES = 32  # the runner, reward workers, agent loops and storage units of a run


def placement_cpus(stage: str, devices: int) -> int:
    """What the placement groups of a run ask for."""
    return devices * CPUS_BESIDE_A_DEVICE[stage]


def logical_cpus(devices: int) -> int:
    """As many CPUs as a node of `devices` must count for runs of any stage."""
    return devices * max(CPUS_BESIDE_A_DEVICE.values()) + OTHER_PROCESSES
