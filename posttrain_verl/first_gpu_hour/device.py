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


def device_facts() -> dict[str, Any]:
    """Versions, the device, TFLOP/s of a matrix product in bf16 (fp32 on a CPU), and GB/s (10^9) of a copy."""
    import torch

    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {"python": sys.version.split()[0], "device": "cpu"}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_gb": properties.total_memory / GIB,
                  "capability": f"{properties.major}.{properties.minor}"}  # fmt: skip
    side, device, dtype = (8192, "cuda", torch.bfloat16) if cuda else (512, "cpu", torch.float32)
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    found["matmul_tflops"] = 2 * side**3 / _call_seconds(lambda: one @ other, cuda) / 1e12
    size = 2**32 if cuda else 2**26
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_gb_s"] = 2 * size / _call_seconds(lambda: target.copy_(source), cuda) / 1e9  # read and written
    return found


def _call_seconds(work: Callable[[], Any], cuda: bool, repeats: int = 10) -> float:
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
    Path(sys.argv[1]).write_text(json.dumps(device_facts(), indent=1) + "\n")
