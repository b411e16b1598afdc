"""Checkpoints of shards alone that VeRL's manager writes under FSDP2: the disk that is planned, and every weight read back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config

from posttrain_verl.compose import compose
from posttrain_verl.export import weights
from posttrain_verl.preflight import capacity
from posttrain_verl.verl.checkpoints import has_weights

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("fsdp2_ranks.py")


@pytest.mark.parametrize(("world", "sharded", "tied"), [(1, 1, True), (2, 2, False), (4, 2, True)])
def test_a_checkpoint_is_as_large_as_planned_and_whole(tmp_path, world, sharded, tied):
    config = Qwen2Config(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                         intermediate_size=512, vocab_size=2000, tie_word_embeddings=tied,
                         architectures=["Qwen2ForCausalLM"])  # fmt: skip
    config.save_pretrained(tmp_path / "model")
    ranks = [subprocess.Popen([sys.executable, PROGRAM, str(rank), str(world), str(sharded), tmp_path])
             for rank in range(world)]  # fmt: skip
    assert [rank.wait(timeout=200) for rank in ranks] == [0] * world

    checkpoint = tmp_path / "checkpoint"
    (part,) = capacity.list_checkpoint_parts(compose(["recipe=math_sft", "hardware=cpu", f"base_model={tmp_path}/model",
                                  f"trainer.n_gpus_per_node={world}", f"engine.fsdp_size={sharded}"]))  # fmt: skip
    assert part.replicas == world // sharded
    for kind, planned in (("model", part.weights), ("optim", part.optimizer)):
        written = sum(file.stat().st_size for file in checkpoint.glob(f"{kind}_world_size_*.pt"))
        assert written == pytest.approx(planned, rel=0.03), kind

    assert has_weights(checkpoint)
    whole = torch.load(tmp_path / "whole.pt")
    found = weights.read_shards(checkpoint)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
    weights.load_model(checkpoint, base=str(tmp_path / "model"))
