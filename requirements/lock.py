"""Write requirements/cpu.lock or requirements/gpu.lock anew: every package pinned, resolved by pip from pyproject.toml.

    .venv/bin/python requirements/lock.py cpu
    .venv/bin/python requirements/lock.py gpu

Nothing is installed and no GPU is needed. A lock is for CPython 3.11 on linux x86_64, and is installed with
`pip install --no-deps -r`, so that what LEFT_OUT names, and what only those packages ask for, stays out.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"cpu": ("cpu", "dev"), "gpu": ("gpu", "dev")}
LEFT_OUT = {
    # The builds pip finds are for CUDA: beside the CPU torch their import fails and takes transformers' models down.
    "cpu": {"torchvision", "torchaudio", "torchcodec", "llm", "llama-cpp-python"},
    "gpu": set(),
}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        sys.exit(f"usage: python {Path(__file__).name} {{{','.join(EXTRAS)}}}")
    world = sys.argv[1]
    wanted = direct_requirements(EXTRAS[world])
    metadata = resolve(wanted)
    names = closure(wanted, metadata, LEFT_OUT[world])
    lines = [f"{metadata[name]['name']}=={metadata[name]['version']}" for name in sorted(names)]
    header = f"# Made by `python requirements/lock.py {world}`; install with --no-deps. CPython 3.11, linux x86_64.\n"
    (ROOT / "requirements" / f"{world}.lock").write_text(header + "\n".join(lines) + "\n")
    print(f"requirements/{world}.lock: {len(lines)} packages")


def direct_requirements(extras: tuple[str, ...]) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def resolve(wanted: list[Requirement]) -> dict[str, dict]:
    """pip's answer to `wanted` in an empty environment: canonical name -> core metadata."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", report]
        subprocess.run([*command, *map(str, wanted)], check=True)
        installed = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in installed}


def closure(wanted: list[Requirement], metadata: dict[str, dict], left_out: set[str]) -> set[str]:
    """The names that `wanted` leads to without passing through a package that is left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ends = list(wanted)
    while open_ends:
        requirement = open_ends.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0] in left_out:
            continue
        seen.add(key)
        open_ends += needs(metadata[key[0]], requirement.extras)
    return {name for name, _ in seen}


def needs(metadata: dict, extras: set[str]) -> Iterator[Requirement]:
    for text in metadata.get("requires_dist", []):
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield requirement


if __name__ == "__main__":
    main()
