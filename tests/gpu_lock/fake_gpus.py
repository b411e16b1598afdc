"""Eight GPUs that are not there: what vLLM's CUDA build asks of its devices before it uses one.

Imported where LD_LIBRARY_PATH leads to a libcuda (libcuda.c makes one without a driver).
"""

import vllm.platforms
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability

GIB = 2**30


class EightH100(NonNvmlCudaPlatform):
    """Answers of a node of eight H100; whatever else is asked goes to vLLM's own platform, and to no device."""

    @classmethod
    def get_device_capability(cls, device_id=0):
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id=0):
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id=0):
        return 80 * GIB

    @classmethod
    def get_device_uuid(cls, device_id=0):
        return f"GPU-{device_id}"

    @classmethod
    def is_fully_connected(cls, physical_device_ids):
        return True

    @classmethod
    def device_count(cls):
        return 8

    @classmethod
    def num_compute_units(cls, device_id=0):
        return 132

    @classmethod
    def is_integrated_gpu(cls, device_id=0):
        return False

    @classmethod
    def set_device(cls, device):
        """There is none to set."""


def install():
    """Make them vLLM's platform; before anything of vLLM asks for its platform."""
    vllm.platforms._current_platform = EightH100()
