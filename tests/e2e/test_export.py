"""Exports of real checkpoints: of two ranks with LoRA, merged and as an adapter, and of full fine-tuning."""

import json
import subprocess
import sys

import pytest
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def export(*words: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "posttrain_verl.export", *words, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stdout.startswith("{"), ended.stderr[-2000:]
    return ended.returncode, json.loads(ended.stdout)


def test_a_lora_run_of_two_ranks(launch):
    run = launch("math_grpo_lora", "trainer.n_gpus_per_node=2")
    run.assert_done([1, 2])
    code, merged = export(f"run={run.folder.path}")
    assert code == 0, merged["findings"]
    assert [finding["passed"] for finding in merged["findings"]] == [True] * 4
    AutoModelForCausalLM.from_pretrained(merged["folder"])
    assert "math_grpo_lora" in (run.folder.path / "export-2" / "README.md").read_text()

    code, adapter = export(f"run={run.folder.path}", "form=adapter", f"posttrain.out={run.folder.path}/adapter")
    assert code == 0, adapter["findings"]
    assert isinstance(AutoPeftModelForCausalLM.from_pretrained(adapter["folder"]), PeftModel), "it names its base"


def test_weights_that_are_not_those_of_the_checkpoint_fail(launch, monkeypatch, tmp_path):
    from posttrain_verl.export import __main__ as verb
    from posttrain_verl.export import weights as models

    run = launch("math_sft")
    run.assert_done([1, 2])
    real = models.write_model

    def untrained(trained, form, dtype, checkpoint, out):
        base = AutoModelForCausalLM.from_pretrained(run.folder.read_plan()["model"])
        real(base, form, dtype, checkpoint, out)

    good = verb.export_checkpoint(run.folder, tmp_path / "good", step=2, vllm=False)
    assert [finding.passed for finding in good] == [True, None, True, True]
    monkeypatch.setattr(models, "write_model", untrained)
    bad = {
        finding.name: finding.passed
        for finding in verb.export_checkpoint(run.folder, tmp_path / "bad", step=2, vllm=False)
    }
    assert bad["transformers agrees with the checkpoint"] is False
    assert bad["differs from its base"] is False
