"""What the device gives without VeRL: `python -m posttrain_verl.first_gpu_hour.device OUT.json`.

The rate of a matrix product and of a copy, against which the training steps are held. On a CPU the sizes are small.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIB = 2**30


def facts() -> dict[str, Any]:
    """Versions, the device, and its two rates."""
    import torch

    cuda = torch.cuda.is_available()
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda, "device": "cpu"}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_gb": properties.total_memory / GIB,
                  "capability": f"{properties.major}.{properties.minor}"}  # fmt: skip
    return found | {"matmul_tflops": matmul_rate(cuda), "copy_gb_s": copy_rate(cuda)}


def matmul_rate(cuda: bool) -> float:
    """TFLOP/s of a product of two square matrices of random numbers in bf16 (fp32 on a CPU)."""
    import torch

    size, device, dtype = (8192, "cuda", torch.bfloat16) if cuda else (512, "cpu", torch.float32)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: one @ other, cuda) / 1e12


def copy_rate(cuda: bool) -> float:
    """GB/s (10^9) read and written by a copy on the device."""
    import torch

    size = 2**32 if cuda else 2**26
    source = torch.zeros(size, dtype=torch.uint8, device="cuda" if cuda else "cpu")
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), cuda) / 1e9


def _seconds(work: Callable[[], Any], cuda: bool, repeats: int = 10) -> float:
    """Seconds of one call, the mean of ten after three that warm up."""
    import torch

    wait = torch.cuda.synchronize if cuda else lambda: None
    for _ in range(3):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(facts(), indent=1) + "\n")
