"""VeRL's platform interface on a CPU: what `torch.cuda` answers on a GPU, answered from the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _device_module() -> ModuleType:
    """`torch.cpu` plus the names VeRL 0.9.1 calls on a device module and `torch.cpu` lacks.

    The caching allocator of `torch.cuda` has no counterpart here: sizes come from the process (resident set) and the host.
    """
    module = ModuleType("posttrain_verl.cpu.device")
    module.__dict__.update(vars(torch.cpu))
    process = psutil.Process()
    resident = {"memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"}
    module.__dict__.update({name: lambda *_, **__: process.memory_info().rss for name in resident})
    nothing = {"empty_cache", "ipc_collect", "set_per_process_memory_fraction", "reset_peak_memory_stats"}
    module.__dict__.update({name: lambda *_, **__: None for name in nothing})
    module.__dict__.update(
        mem_get_info=lambda *_: (psutil.virtual_memory().available, psutil.virtual_memory().total),
        get_device_name=lambda *_: "cpu",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        set_device=lambda *_: None,
        current_device=lambda: "cpu",
    )
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """One logical device a Ray GPU slot: placement groups, ranks and replicas of VeRL then work unchanged."""

    def __init__(self) -> None:
        self._module = _device_module()

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._module

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never auto-detected: the CPU is used when asked for (`VERL_PLATFORM=cpu`), not because a GPU was not seen."""
        return False

    def current_device(self) -> str:
        """`cpu`, not 0: VeRL passes it to `.to(device=...)`, where 0 would mean the first GPU."""
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        """Ray is started with logical `GPU`s, one a worker, so VeRL's resource pools need no change."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        """False: weights travel from the actor to vLLM through shared memory in place of CUDA IPC."""
        return False

    def cudart(self) -> Any:
        return None
