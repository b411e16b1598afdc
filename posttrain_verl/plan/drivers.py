"""Why a machine that has NVIDIA's GPUs cannot train on them, and what to do about it. No answer here is a silent CPU run."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain_verl.plan.facts import Facts
from posttrain_verl.problem import Problem, warning

# The driver that each major release of CUDA needs on Linux: NVIDIA's "CUDA Compatibility", minor version compatibility
# (docs.nvidia.com/deploy/cuda-compatibility), and the CUDA Toolkit release notes for the third number.
NEEDED = {"12": "525.60.13", "13": "580"}
ON_THE_CPU = (
    "to train a small model on the CPU: hardware=cpu, or `export CUDA_VISIBLE_DEVICES=` for all commands of this shell"
)
IN_A_CONTAINER = (
    "docker run --gpus all, with nvidia-container-toolkit on the host; on Kubernetes ask for nvidia.com/gpu"
)
OF_SLURM = "in a job of Slurm ask for them (--gpus=N)"


def trouble(seen: Facts) -> Problem | None:
    """What keeps torch from the GPUs that are there; None where it can use one, there is none, or the user hides them.

    A CPU environment beside GPUs that nothing here can reach is only warned of: a pod that asked for no GPU on a node that
    has some looks the same.
    """
    if seen.torch or seen.hidden or not seen.driver.most:
        return None
    if seen.build.cuda is None:
        return _cpu_environment(seen)
    if not seen.devices:
        return Problem(*_unreachable(seen))
    return _too_old(seen) or Problem(*_unusable(seen))


def needed_driver(cuda: str | None) -> str:
    """The oldest driver for a torch that was built for this release of CUDA; empty where it is not known here."""
    return NEEDED.get((cuda or "").partition(".")[0], "")


def _cpu_environment(seen: Facts) -> Problem:
    build = f"torch {seen.build.version} is built without CUDA" if seen.build.version else "there is no torch"
    if not seen.devices:
        what, reach = _unreachable(seen)
        return warning(f"{what}; {build}, so this runs on the CPU", f"for a run on GPUs: {reach.splitlines()[0]}")
    what = f"this machine has {_counted(seen)}, and this environment cannot use them: {build}"
    return Problem(what, f"to train on them: rm -r .venv, then make setup WORLD=gpu\n{ON_THE_CPU}")


def _counted(seen: Facts) -> str:
    names = sorted({device.name for device in seen.devices})
    return f"{_gpus(len(seen.devices))} ({', '.join(names)})"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _too_old(seen: Facts) -> Problem | None:
    """Only where torch can use none: with NVIDIA's cuda-compat package an older driver serves a newer CUDA."""
    cuda, version = seen.build.cuda, seen.driver.version
    needed = needed_driver(cuda)
    if not needed or not version or _numbers(version) >= _numbers(needed):
        return None
    if seen.visible is not None and "too old" not in seen.torch_said:  # then CUDA_VISIBLE_DEVICES may be the reason
        return None
    what = (f"torch {seen.build.version} was built for CUDA {cuda}, which needs driver {needed} or newer; this machine has "
            f"{version}, so torch can use none of its {_counted(seen)}")  # fmt: skip
    package = f"cuda-compat-{str(cuda).replace('.', '-')}"
    remedy = (f"install driver {needed} or newer; on data-center GPUs NVIDIA's package {package} beside the present one "
              f"may do\n{ON_THE_CPU}")  # fmt: skip
    return Problem(what, remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _unusable(seen: Facts) -> tuple[str, str]:
    """The driver lists devices and is new enough: torch's own words, and what helps with them."""
    said = f": {seen.torch_said.splitlines()[0]}" if seen.torch_said else ""
    what = f"driver {seen.driver.version} lists {_counted(seen)}, and torch {seen.build.version} can use none{said}"
    return what, "\n".join([*_causes(seen), ON_THE_CPU])


def _causes(seen: Facts) -> Iterator[str]:
    if seen.visible is not None:
        yield f"CUDA_VISIBLE_DEVICES={seen.visible}: unset it, or name devices that are there; {OF_SLURM}"
    elif "802" in seen.torch_said:  # cudaErrorSystemNotReady
        yield "on a machine with NVSwitch start nvidia-fabricmanager, in the driver's own version"
    else:
        yield "`python -c 'import torch; torch.cuda.init()'` says more; is /dev/nvidia-uvm there (nvidia-modprobe -u -c=0)?"


def _unreachable(seen: Facts) -> tuple[str, str]:
    """GPUs on the bus or among the device files that no driver lists for this process."""
    driver, there = seen.driver, f"this machine has {_gpus(seen.driver.most)} of NVIDIA"
    if driver.version and not driver.files:
        what = f"{there} and driver {driver.version}, and none reaches this process: there is no /dev/nvidia0"
        return what, f"in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"
    if driver.version and not driver.error:
        what = f"{there} and driver {driver.version}, which lists none of them for this process"
        return what, f"{OF_SLURM}; in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"
    needed = needed_driver(seen.build.cuda)
    if driver.version:
        what = f"{there} and driver {driver.version}, and NVML does not list them: {driver.error}"
        return what, f"nvidia-smi must list them first: reboot after an update of the driver\n{ON_THE_CPU}"
    what = f"{there}, and no driver of NVIDIA is loaded ({driver.error})"
    install = f"install driver {needed} or newer" if needed else "install NVIDIA's driver"
    return what, f"{install}, and load it (modprobe nvidia); in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"
