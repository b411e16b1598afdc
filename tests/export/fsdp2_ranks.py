"""One rank of a tiny model under FSDP2, saved by VeRL's own checkpoint manager: RANK WORLD SHARDS FOLDER (see test_fsdp2.py).

`SHARDS` below WORLD makes replicas of the shards (HSDP). The whole weights, and which bytes each rank holds, come from torch.
"""

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager


def main(rank: int, world: int, shards: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    sizes, names = ((world,), ("shard",)) if shards == world else ((world // shards, shards), ("replica", "shard"))
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "model"))
    if rank == 0:
        torch.save(model.state_dict(), folder / "whole.pt")
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    contents = OmegaConf.create({"save_contents": ["model", "optimizer", "extra"]})
    manager = FSDPCheckpointManager(model, optimizer, checkpoint_config=contents)
    manager.save_checkpoint(str(folder / "checkpoint"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), folder=Path(sys.argv[4]))
