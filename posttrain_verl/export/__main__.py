"""The verb `export`: what a run trained as a Hugging Face folder, with the proof of it.

It reads FSDP shards of any number of ranks, merges a LoRA adapter, and writes safetensors with tokenizer, chat template and a
model card.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from posttrain_verl.export import proof
from posttrain_verl.export.proof import Finding
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import hidden_bars, stdout
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Export
from posttrain_verl.verl.checkpoints import HUGGING_FACE, fingerprint_shards
from posttrain_verl.verl.stage import Settings

TEXTS = 8  # whose tokens are compared, each of at most TOKENS
TOKENS = 256


@hidden_bars()
def export_checkpoint(
    run: RunFolder, out: Path, step: int, form: str = "merged", dtype: str = "auto", vllm: bool = True
) -> list[Finding]:
    """Write the checkpoint of `step` into `out`, which must not exist, and return what was found about it.

    The folder appears whole, with proof.json and README.md, or not at all.

    Raises:
        InputError: the checkpoint is incomplete, or `form` does not fit the run.
    """
    from transformers import AutoConfig

    from posttrain_verl.export import weights as models

    checkpoint, settings = run.checkpoint(step), run.read_settings()
    base = settings.model.path
    trained = models.load_model(checkpoint, base)
    if form == "adapter" and not models.is_lora(trained):
        raise InputError(Export.TITLE, [Problem(f"{run.path} is not a LoRA run and has no adapter", "form=merged")])
    if dtype == "auto":  # the one that the base's config.json names
        dtype = str(AutoConfig.from_pretrained(base).dtype or "float32").removeprefix("torch.")
    texts = sample_texts(settings, checkpoint / HUGGING_FACE)
    expected = proof.token_logprobs(trained, texts)
    scratch = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    changed = models.write_model(trained, form, dtype, checkpoint, scratch)
    findings = prove_export(scratch, form, dtype, base, expected, texts, vllm)
    findings += [Finding("config of the checkpoint kept", None, changed)] if changed else []
    (scratch / "proof.json").write_text(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    (scratch / models.EXPORTED_SHARDS).write_text(fingerprint_shards(checkpoint))
    (scratch / "README.md").write_text(proof.card_text(run, step, base, findings))
    scratch.rename(out)
    return findings


def prove_export(folder: Path, form: str, dtype: str, base: str, expected: list[float], texts: list[list[int]],
          vllm: bool) -> list[Finding]:  # fmt: skip
    """What holds of the written folder; `expected` are the log-probabilities of the checkpoint itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain_verl.export import weights as models

    written = models.read_written(folder, form, base)
    findings = [proof.check_agreement(proof.AGREES, expected, proof.token_logprobs(written, texts), dtype)]
    by_vllm = "vLLM agrees with the checkpoint"
    if form == "merged" and vllm:
        findings.append(proof.check_vllm_agreement(by_vllm, folder, expected, texts, dtype))
    else:
        why = "an adapter is not a whole model" if form == "adapter" else "vllm=false"
        findings.append(Finding(by_vllm, None, why))
    if not Path(base).is_dir():
        return [*findings, Finding("differs from its base", None, f"{base} is not on this machine")]
    if form == "adapter":
        findings.append(proof.check_adapter_change(written))
    else:
        before = AutoModelForCausalLM.from_pretrained(base)
        findings.append(proof.check_change(before.state_dict(), written.state_dict()))
    kept = proof.check_tokens_kept(AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(folder))
    return [*findings, kept]


def sample_texts(settings: Settings, tokenizer_folder: Path) -> list[list[int]]:
    """Token ids of a few conversations of the run's own data, as its template renders them."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    file = Path((settings.files("val_files") or settings.files("train_files"))[0])
    if not file.is_file():
        asked = [f"What is {n} + {n}? Explain each step." for n in range(TEXTS)]
        rows = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    else:
        rows = next(pq.ParquetFile(file).iter_batches(TEXTS)).to_pylist()
    chats = [row.get("messages") or row["prompt"] for row in rows]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    return [tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS] for text in rendered]


def run(asked: Export) -> int:
    """The verb without its command line. Raises InputError."""
    from posttrain_verl.export.weights import result_step

    trained = RunFolder.find(asked.run, asked.runs_dir)
    step = asked.step if asked.step is not None else result_step(trained, from_shards=True)
    out = Path(asked.out or trained.path / f"export-{step}").expanduser().absolute()
    if out.exists():
        raise InputError(Export.TITLE, [Problem(f"{out} exists already", "remove it, or posttrain.out=ANOTHER")])
    findings = export_checkpoint(trained, out, step, asked.form, asked.dtype, asked.vllm)
    if asked.as_json:
        print(json.dumps({"folder": str(out), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        table = Table("", "holds", "seen", title=str(out))
        for finding in findings:
            table.add_row(finding.name, {True: "yes", False: "NO", None: "-"}[finding.passed], finding.saw)
        stdout().print(table)
    return 1 if any(finding.passed is False for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(command_line.main(Export, run))
