"""Whole tensors from the shards that VeRL's FSDP ranks save, `model_world_size_<N>_rank_<i>.pt`, for any N.

VeRL's own merger rounds every tensor to bf16 and takes a one-dimensional mesh only; here the dtype stays, and meshes with
replicas (HSDP) are read, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_verl.problem import InputError, Problem

if TYPE_CHECKING:
    import torch

TITLE = "nothing to export"


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The whole state dict of a checkpoint; `folder` is the one that holds fsdp_config.json.

    Raises:
        InputError: no FSDP checkpoint, a shard is missing or cut off, or tensors are sharded along two meshes at once.
    """
    import torch

    shards = []
    for file in _files(folder):
        try:
            shards.append(torch.load(file, map_location="cpu", weights_only=False, mmap=True))
        except (RuntimeError, EOFError, OSError) as error:
            raise InputError(TITLE, [Problem(f"{file} cannot be read: {error}", "export an earlier step=")]) from error
    return {name: whole([shard[name] for shard in shards]) for name in shards[0]}


def _files(folder: Path) -> list[Path]:
    described = folder / "fsdp_config.json"
    if not described.is_file():
        what = f"{folder} holds no FSDP checkpoint (fsdp_config.json is missing)"
        raise InputError(TITLE, [Problem(what, "name a run that saved `model` among its checkpoint's save_contents")])
    size = json.loads(described.read_text())["world_size"]
    files = [folder / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    missing = [Problem(f"{file} is missing", "copy the shards of every node") for file in files if not file.is_file()]
    if missing:
        raise InputError(TITLE, missing)
    return files


def whole(parts: list[Any]) -> torch.Tensor:
    """One tensor from its parts, in the order of the ranks; what is no DTensor is the same on every rank.

    Raises:
        InputError: the ranks of the two meshes interleave (FSDP over tensor parallelism).
    """
    first = parts[0]
    if not hasattr(first, "placements"):
        return first
    if any(type(placement).__name__ == "_StridedShard" for placement in first.placements):
        what = "the checkpoint is sharded by FSDP and tensor parallelism at once"
        raise InputError(TITLE, [Problem(what, "merge it with python -m verl.model_merger merge")])
    return _assemble(first.device_mesh.mesh, first.placements, [part.to_local() for part in parts])


def _assemble(mesh: torch.Tensor, placements: tuple[Any, ...], parts: list[torch.Tensor]) -> torch.Tensor:
    """Walk the dimensions of the mesh: any replica will do, shards are joined."""
    import torch

    if not placements:
        return parts[int(mesh)]
    if placements[0].is_replicate():
        return _assemble(mesh[0], placements[1:], parts)
    return torch.cat([_assemble(row, placements[1:], parts) for row in mesh], dim=placements[0].dim)
