"""Shards become whole tensors, whatever the mesh; what is missing or cannot be merged is said."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.tensor import Replicate, Shard

from posttrain_verl.export import weights
from posttrain_verl.terminal.problem import InputError


@dataclass
class Part:
    """What `whole` reads of a DTensor."""

    local: torch.Tensor
    placements: tuple
    device_mesh: SimpleNamespace

    def to_local(self) -> torch.Tensor:
        return self.local


def parts(locals_, mesh, placements):
    return [Part(local, placements, SimpleNamespace(mesh=torch.tensor(mesh))) for local in locals_]


WHOLE = torch.arange(10.0).reshape(5, 2)


def test_uneven_shards_are_joined_in_the_order_of_the_ranks():
    assert torch.equal(weights.whole_tensor(parts(WHOLE.split([2, 2, 1]), [0, 1, 2], (Shard(0),))), WHOLE)


def test_one_replica_of_a_hybrid_mesh_is_enough():
    rows = [*WHOLE.split([3, 2]), *torch.zeros(5, 2).split([3, 2])]
    found = weights.whole_tensor(parts(rows, [[0, 1], [2, 3]], (Replicate(), Shard(0))))
    assert torch.equal(found, WHOLE)


def test_the_sharded_dimension_is_the_placements():
    assert torch.equal(weights.whole_tensor(parts(WHOLE.split(1, dim=1), [0, 1], (Shard(1),))), WHOLE)


def test_plain_tensors_are_taken_as_they_are_and_dtypes_stay():
    assert weights.whole_tensor([WHOLE.double(), WHOLE.double()]).dtype == torch.float64


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "fsdp_config.json").write_text(json.dumps({"world_size": 2}))
    torch.save({}, tmp_path / "model_world_size_2_rank_0.pt")
    with pytest.raises(InputError, match=r"rank_1\.pt is missing"):
        weights.read_shards(tmp_path)
    (tmp_path / "model_world_size_2_rank_1.pt").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"rank_1\.pt cannot be read"):
        weights.read_shards(tmp_path)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(InputError, match="not hold an FSDP checkpoint"):
        weights.read_shards(tmp_path)
