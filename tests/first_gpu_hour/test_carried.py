"""The folder for a machine without network: what is in it is enough, and a wrong one is refused with the remedy."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from posttrain_verl.first_gpu_hour import carried, carry
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError

ROOT = Path(__file__).resolve().parents[2]
# torch and what it requires: all that the machine has.
TORCH = (
    "torch",
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "setuptools",
    "sympy",
    "typing_extensions",
)
THIS = f"cp3{sys.version_info.minor}"
# Brings the loopback up in a network namespace of its own, and becomes the command that follows.
WITHOUT_NETWORK = """import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))
os.execv(sys.argv[1], sys.argv[1:])
"""


def wheel(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        archive.writestr(f"{name.partition('-')[0]}/__init__.py", "here = True")


def test_wheels_are_put_where_python_finds_them(tmp_path):
    for name in ("one-1-py3-none-any", f"two-1-{THIS}-{THIS}-manylinux1_x86_64", "three-1-cp39-abi3-manylinux1_x86_64"):
        wheel(tmp_path / "carry", name)
    carried.unpack_wheels(tmp_path / "carry", tmp_path / "place")
    assert sorted(file.name for file in (tmp_path / "place").iterdir()) == ["one", "three", "two"]


def test_numpy_is_the_machines_own_where_it_has_one(tmp_path):
    wheel(tmp_path / "carry", "numpy-1-cp27-cp27-manylinux1_x86_64")
    wheel(tmp_path / "carry", "one-1-py3-none-any")
    carried.unpack_wheels(tmp_path / "carry", tmp_path / "place")
    assert not (tmp_path / "place" / "numpy").exists()


@pytest.mark.parametrize(
    ("name", "says", "remedy"),
    [
        (None, "there are no wheels", "make gpu-carry, on a machine with network"),
        ("one-1-cp27-cp27-linux_x86_64", "is for another Python", f"make gpu-carry CARRY_PYTHON=3.{THIS[3:]}"),
    ],
)
def test_a_folder_that_does_not_serve_is_refused_with_the_remedy(tmp_path, name, says, remedy):
    if name:
        wheel(tmp_path, name)
    with pytest.raises(InputError) as refused:
        carried.unpack_wheels(tmp_path, tmp_path / "place")
    assert says in refused.value.problems[0].what and refused.value.problems[0].remedy == remedy


def test_every_carried_package_is_pinned():
    pinned = {line.partition("==")[0] for line in carry.LOCK.read_text().splitlines()}
    assert not set(carry.PACKAGES) - pinned


def test_a_folder_with_other_things_is_not_made_anew(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="holds more than wheels"):
        read(carry.Carry, [f"carry={tmp_path}"])
    assert (tmp_path / "mine.txt").exists()


def machine_with_torch_alone(folder: Path) -> Path:
    """A Python that sees torch of this environment, what torch requires, and nothing else that is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in TORCH:
        for top in {file.parts[0] for file in distribution(name).files or () if ".." not in file.parts}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(distribution(name).locate_file(top))
    return folder / "bin" / "python"


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_short_mode_runs_with_torch_and_the_carried_folder_alone(tmp_path):
    """Built by pip, then run in an empty environment, without network, on the CPU backend with the model `tiny`."""
    folder, python = tmp_path / "carry", machine_with_torch_alone(tmp_path / "machine")
    assert 20 < carry.build_wheels(folder, f"3.{sys.version_info.minor}") < carry.LIMIT_MB
    alone = subprocess.run([python, "-c", "import torch, hydra"], capture_output=True, text=True, check=False)
    assert "No module named 'hydra'" in alone.stderr, "the machine has more than torch"
    out = tmp_path / "report.md"
    command = [python, "-m", "posttrain_verl.first_gpu_hour.carried", f"carry={folder}", "minutes=12", f"out={out}"]
    isolated = ["unshare", "--user", "--map-root-user", "--net", python, "-c", WITHOUT_NETWORK, *command]
    done = subprocess.run(isolated, cwd=tmp_path, env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
                          "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["verdict"] == "rehearsed on a CPU"
    measured = {part["name"]: part["measured"] for part in found["parts"] if part["state"] == "passed"}
    assert set(measured) == {"device", "attention, tiny", "SFT, tiny", "LoRA, tiny", "SFT without checkpointing, tiny"}
    assert "ray" in measured["SFT, tiny"]["missing"]
    assert measured["SFT, tiny"]["attention"] == "varlen"
    for name in ("SFT, tiny", "LoRA, tiny", "SFT without checkpointing, tiny"):
        steps = measured[name]["steps"]
        assert len(steps) == 7 and steps[-1]["micro_batches"] >= 3
        assert [step["largest"] for step in steps[:6]] == [128, 128, 256, 512, 512, 512]
        assert all(5 < step["loss"] < 6 and step["grad_norm"] > 0 for step in steps), "about ln 259 with random weights"
    rows = measured["attention, tiny"]["rows"]
    assert rows["packed_against_padded_sdpa"] < 1e-4 < rows["run_together"]
