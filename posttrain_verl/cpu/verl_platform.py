"""VeRL's platform interface on a CPU: what `torch.cuda` answers on a GPU, answered from the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _device_module() -> ModuleType:
    """`torch.cpu` plus the names that VeRL 0.9.1 calls on a device module and `torch.cpu` lacks.

    `torch.cpu` has no caching allocator, so sizes come from the process (resident set) and the host.
    """
    module = ModuleType("posttrain_verl.cpu.device")
    module.__dict__.update(vars(torch.cpu))
    process = psutil.Process()
    resident = {"memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"}
    module.__dict__.update({name: lambda *_, **__: process.memory_info().rss for name in resident})
    nothing = {"empty_cache", "ipc_collect", "set_per_process_memory_fraction", "reset_peak_memory_stats"}
    module.__dict__.update(dict.fromkeys(nothing, _do_nothing))
    module.__dict__.update(
        mem_get_info=lambda *_: (psutil.virtual_memory().available, psutil.virtual_memory().total),
        get_device_name=lambda *_: "cpu",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        set_device=_do_nothing,
        current_device=lambda: "cpu",
    )
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """One logical device for each GPU slot of Ray, so that placement groups, ranks and replicas of VeRL work unchanged."""

    device_name = vendor_name = "cpu"

    @cached_property
    def device_module(self) -> ModuleType:
        return _device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """False: the CPU is used only on request (`VERL_PLATFORM=cpu`), and not because no GPU was found."""
        return False

    def current_device(self) -> str:
        """`cpu` and not 0, because VeRL passes it to `.to(device=...)`, where 0 would mean the first GPU."""
        return "cpu"

    def device_count(self) -> int:
        return 1

    set_device = synchronize = set_allocator_settings = empty_cache = _do_nothing
    profiler_start = profiler_stop = cudart = _do_nothing

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        """Ray starts with one logical `GPU` for each worker, so VeRL's resource pools need no change."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        """False: weights travel from the actor to vLLM through shared memory."""
        return False
