"""The peer's side of dpo_vs_trl.py, run in the peer's environment: FOLDER; writes FOLDER/theirs.

FOLDER holds what tests/verl/pair_step.py wrote: a reference, a policy, an adapter and pairs. Each case is a trainer of
TRL that takes one optimizer step over all pairs, whose gradients are kept before it and whose learning rate is 0.
"""

import json
import sys
from itertools import product
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Gradients(TrainerCallback):
    """The gradient of each parameter, before the optimizer's step."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: object, model: torch.nn.Module, **__: object) -> None:
        self.kept = {
            name: each.grad.clone()
            for name, each in model.named_parameters()
            if each.grad is not None and ".ref." not in name
        }


def one_step(folder: Path, mode: str, loss: str, beta: float, micro: int, pairs: int) -> dict[str, object]:
    """A case: the mean loss of its micro batches, the mean margin, and the gradients."""
    model = AutoModelForCausalLM.from_pretrained(folder / ("reference" if mode == "lora" else "policy"))
    adapter = json.loads((folder / "adapter/adapter_config.json").read_text())
    lora = LoraConfig(task_type="CAUSAL_LM", bias="none", r=adapter["r"], lora_alpha=adapter["lora_alpha"],
                      target_modules="all-linear")  # fmt: skip
    config = DPOConfig(
        output_dir=str(folder / "trl"), max_steps=1, per_device_train_batch_size=micro,
        gradient_accumulation_steps=pairs // micro, loss_type=[loss], beta=beta, learning_rate=0.0, max_grad_norm=0.0,
        lr_scheduler_type="constant", gradient_checkpointing=False, bf16=False, use_cpu=True, save_strategy="no",
        report_to=[], logging_strategy="no", disable_tqdm=True, disable_dropout=False,
    )  # fmt: skip
    gradients, losses, margins = Gradients(), [], []
    rows = load_dataset("parquet", data_files=str(folder / "pairs.parquet"), split="train")
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
        ref_model=None if mode == "lora" else AutoModelForCausalLM.from_pretrained(folder / "reference"),
        peft_config=lora if mode == "lora" else None, callbacks=[gradients],
    )  # fmt: skip
    if mode == "lora":
        set_peft_model_state_dict(trainer.model, load_file(folder / "adapter/adapter_model.safetensors"))
    compute = trainer.compute_loss

    def compute_loss(*args: object, **kwargs: object) -> object:
        found = compute(*args, **kwargs)
        losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
        margins.append(trainer._metrics["train"]["rewards/margins"][-1])
        return found

    trainer.compute_loss = compute_loss
    trainer.train()
    assert len(losses) == pairs // micro
    return {"loss": sum(losses) / len(losses), "margin": sum(margins) / len(margins), "gradients": gradients.kept}


def main() -> None:
    folder, losses, micro_batches, pairs = Path(sys.argv[1]), *map(json.loads, sys.argv[2:5])
    found = {
        f"{mode}/{name}/{micro}": one_step(folder, mode, name, beta, micro, pairs)
        for mode, (name, beta), micro in product(("full", "lora"), losses.items(), micro_batches)
    }
    torch.save(found, folder / "theirs")


if __name__ == "__main__":
    main()
