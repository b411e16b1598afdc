"""One step of preference optimization by VeRL's engine, without Ray: `python pair_step.py FOLDER OUT RANK RANKS`.

`make_case` writes tiny models, an adapter and pairs into FOLDER. For every loss, with and without LoRA, and with micro
batches of one pair, of four, and of so many tokens, OUT gets what the step measured: its loss, the mean margin, and the
gradient of each parameter. benchmarks/dpo_vs_trl.py compares them with TRL's, and test_dpo_golden.py with the numbers
on which both agreed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LOSSES = {"sigmoid": 0.1, "ipo": 0.3, "sigmoid_norm": 5.0}  # with their beta
MICRO_BATCHES = (1, 4)  # pairs
DYNAMIC = 0  # in the place of a size: micro batches of TOKENS at most, which hold whole pairs
TOKENS = 160
PAIRS = 8
ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def make_case(folder: Path) -> None:
    """Write the reference, a policy near it, an adapter, and pairs; the same in every call."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain_verl import base_models

    reference = base_models.ensure_model("tiny")
    model, tokenizer = (kind.from_pretrained(reference) for kind in (AutoModelForCausalLM, AutoTokenizer))
    drawn = torch.Generator().manual_seed(1)
    for name in ("reference", "policy"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=drawn)
    model = AutoModelForCausalLM.from_pretrained(reference)
    adapted = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, bias="none", **ADAPTER))
    with torch.no_grad():
        for parameter in (each for each in adapted.parameters() if each.requires_grad):
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=drawn))
    adapted.save_pretrained(folder / "adapter")
    pq.write_table(pa.Table.from_pylist(make_pairs(PAIRS)), folder / "pairs.parquet")


def make_pairs(count: int) -> list[dict[str, Any]]:
    """Sums with a right and a wrong answer, of different lengths."""
    rows = []
    for number in range(count):
        first, second = 11 + 7 * number, 23 + 5 * number
        right, wrong = f"#### {first + second}", f"{first}, {second} and so #### {first + second + number % 3 + 1}"
        question = {"role": "user", "content": f"{first}+{second}="}
        answers = {side: [{"role": "assistant", "content": text}] for side, text in
                   (("chosen", right), ("rejected", wrong))}  # fmt: skip
        rows.append({"prompt": [question], **answers})
    return rows


def summarize(case: dict[str, Any]) -> dict[str, Any]:
    """What the golden file has of a case: of each gradient its norm, and its projection on a fixed direction."""
    import torch

    found = {}
    for name, gradient in sorted(case["gradients"].items()):
        flat = gradient.flatten().double()
        direction = torch.cos(torch.arange(len(flat), dtype=torch.float64))
        found[name] = [float(f"{value:.9g}") for value in (flat.norm(), flat @ direction / direction.norm())]
    return {"loss": case["loss"], "margin": case["margin"], "gradients": found}


def start_ranks(folder: Path, ranks: int) -> Path:
    """Run the steps on so many ranks; returns the file that they wrote. Raises CalledProcessError."""
    from posttrain_verl.run import environment
    from posttrain_verl.verl import single_worker

    out = folder / f"ours-{ranks}"
    given = os.environ | environment.process_variables("cpu", local_model=True) | single_worker.plugin_variables()
    given |= {"DIST_INIT_METHOD": f"file://{folder}/meeting-{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
              "GLOO_SOCKET_IFNAME": "lo", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, __file__, str(folder), str(out), str(rank), str(ranks)],
                         env=given | {"RANK": str(rank), "WORLD_SIZE": str(ranks)})
        for rank in range(ranks)
    ]  # fmt: skip
    codes = [each.wait() for each in started]
    if any(codes):
        raise subprocess.CalledProcessError(max(codes, key=abs), "pair_step.py")
    return out


class Steps:
    """The worker of one rank for one model."""

    def __init__(self, folder: Path, model: str, rank: int, ranks: int, *overrides: str):
        from transformers import AutoTokenizer

        from posttrain_verl.compose import compose
        from posttrain_verl.verl import pairs, single_worker
        from posttrain_verl.verl.dpo import DpoSettings

        self.rank, self.ranks = rank, ranks
        self.config = compose([
            "recipe=demo_dpo", "hardware=cpu", f"base_model={folder / model}", f"data.train_files={folder}/pairs.parquet",
            f"trainer.n_gpus_per_node={ranks}", *overrides,
        ]).verl  # fmt: skip
        self.settings = DpoSettings(self.config)
        self.worker = single_worker.build_worker(self.settings.model, str(folder / model))
        tokenizer = AutoTokenizer.from_pretrained(folder / model)
        rows = pairs.PairData(self.settings.train_files, self.config.data, tokenizer, None, -1)
        self.batch = pairs.PairCollator(self.config.data.pad_mode)([rows[place] for place in range(len(rows))])

    def data(self, micro: int, **more: Any) -> Any:
        """The batch with what VeRL reads beside the tensors."""
        from verl.utils import tensordict_utils as tu

        from posttrain_verl.verl import pairs

        meta = {"use_remove_padding": False, "use_dynamic_bsz": micro == DYNAMIC, "max_token_len_per_gpu": TOKENS,
                "micro_batch_size_per_gpu": micro,
                "force_group_size": pairs.PAIR, "temperature": 1.0, "pad_mode": self.config.data.pad_mode,
                "pad_token_id": 0, "global_batch_size": 2 * PAIRS, "batch_pairs": pairs.count_pairs(self.batch)}  # fmt: skip
        return tu.get_tensordict(tensor_dict=dict(self.batch), non_tensor_dict=meta | more)

    def sums(self, **more: Any) -> Any:
        """The log-probabilities of the answers and their lengths, on each rank for all pairs."""
        from posttrain_verl.verl.dpo_losses import sum_answers

        log_probs = self.worker.infer_batch(self.data(PAIRS, compute_loss=False, **more))["log_probs"]
        mask = self.batch["loss_mask"]
        return sum_answers(log_probs.values(), mask.values(), mask.offsets().diff())

    def step(self, loss: Any, micro: int, reference: Any) -> dict[str, Any]:
        """The gradient of one step, which is not taken."""
        from verl.utils import tensordict_utils as tu

        from posttrain_verl.verl import pairs
        from posttrain_verl.verl.dpo_losses import PreferenceLoss, preference_loss, split_pairs

        self.worker.set_loss_fn(partial(preference_loss, loss))
        self.batch[pairs.REFERENCE] = reference
        engine, gradients = self.worker.engine, {}

        def keep_gradients() -> float:
            for name, parameter in engine.module.named_parameters():
                if parameter.grad is not None:
                    whole = parameter.grad
                    gradients[name] = getattr(whole, "full_tensor", lambda whole=whole: whole)().clone()
            engine.optimizer_zero_grad()
            return 0.0

        engine.optimizer_step = keep_gradients
        order = pairs.balance_pairs(self.batch["input_ids"].offsets().diff(), self.ranks)
        mine = order.view(self.ranks, -1)[self.rank]
        data = tu.index_select_tensor_dict(self.data(micro), mine)
        tu.assign_non_tensor(data, global_token_num=None)
        loss_value = float(tu.get(self.worker.train_batch(data), "metrics")["loss"])
        sums, tokens = self.sums()
        chosen, rejected, _ = split_pairs(sums, reference, tokens)
        margins = PreferenceLoss("sigmoid", loss.beta).margins(chosen, rejected)  # as TRL has it for every loss
        return {"loss": loss_value, "margin": float(margins.mean()), "gradients": gradients}


def main(folder: Path, out: Path, rank: int, ranks: int) -> None:
    import torch

    from posttrain_verl.verl.dpo_losses import PreferenceLoss

    full = Steps(folder, "policy", rank, ranks)
    before = Steps(folder, "reference", rank, ranks).sums()[0]
    lora = Steps(folder, "reference", rank, ranks, "model.lora_rank=4", "model.lora_alpha=8",
                 "model.target_modules=all-linear", f"model.lora_adapter_path={folder}/adapter")  # fmt: skip
    without = lora.sums(no_lora_adapter=True)[0]
    assert torch.allclose(before, without, rtol=1e-6), "the base without its adapter is the reference"
    found = {}
    for (mode, steps, known), (name, beta), micro in product(
        (("full", full, before), ("lora", lora, without)), LOSSES.items(), (*MICRO_BATCHES, DYNAMIC)
    ):
        found[f"{mode}/{name}/{micro}"] = steps.step(PreferenceLoss(name, beta), micro, known)
    if rank == 0:
        torch.save(found, f"{out}.building")
        os.replace(f"{out}.building", out)
        print(json.dumps({case: each["loss"] for case, each in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
