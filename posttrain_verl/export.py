"""Write what a run trained as a Hugging Face folder, and prove it: `python -m posttrain_verl.export run=ID [key=value ...]`.

    run=ID            a run folder, `<recipe>/<id>`, an id, or a recipe (its newest run)
    step=N            the checkpoint (default: the newest)
    form=merged       or `adapter`: of a LoRA run the adapter alone
    dtype=auto        the base's dtype; or float32, bfloat16, float16
    vllm=true         whether vLLM has to load it, too
    posttrain.out=    the folder (default: <run>/export-<step>)

It reads FSDP shards of any number of ranks, merges a LoRA adapter, and writes safetensors with tokenizer, chat template and a
model card. Exit code 0 when all that could be looked at holds, 1 when something does not, 2 when the input is wrong.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from posttrain_verl import options
from posttrain_verl.console import stdout
from posttrain_verl.exporting import card, proof
from posttrain_verl.exporting.proof import Finding
from posttrain_verl.problem import InputError, Problem, exit_code, one_of
from posttrain_verl.run.folder import RunFolder

TITLE = "nothing to export"
OPTIONS = {"run": "", "step": "", "form": "merged", "dtype": "auto", "vllm": "true", "posttrain.out": "",
           "posttrain.runs_dir": "runs"}  # fmt: skip
VALUES = {"form": ("merged", "adapter"), "dtype": ("auto", *proof.TOLERANCES), "vllm": ("true", "false")}
MODEL_KEYS = {"rl": "actor_rollout_ref.model.path", "sft": "model.path"}
TEXTS = 8  # whose tokens are compared, each of at most TOKENS
TOKENS = 256


def export(
    run: RunFolder, out: Path, step: int, form: str = "merged", dtype: str = "auto", vllm: bool = True
) -> list[Finding]:
    """Write the checkpoint of `step` into `out`, which must not exist, and return what was found about it.

    The folder appears whole, with proof.json and README.md, or not at all.

    Raises:
        InputError: the checkpoint is incomplete, or `form` does not fit the run.
    """
    from posttrain_verl.exporting import model as models

    stage = run.read_plan()["stage"]
    checkpoint = run.checkpoint(stage, step)
    config = OmegaConf.load(run.config)
    base = str(OmegaConf.select(config, MODEL_KEYS[stage]))
    trained = models.load(checkpoint, base)
    if form == "adapter" and not models.is_lora(trained):
        raise InputError(TITLE, [Problem(f"{run.path} is no LoRA run and has no adapter", "form=merged")])
    dtype = dtype_of(base) if dtype == "auto" else dtype
    texts = sample(config, checkpoint / "huggingface")
    expected = proof.logprobs(trained, texts)
    scratch = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    changed = models.write(trained, form, dtype, checkpoint, scratch)
    findings = prove(scratch, form, dtype, base, expected, texts, vllm)
    findings += [Finding("config of the checkpoint kept", None, changed)] if changed else []
    (scratch / "proof.json").write_text(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    (scratch / "README.md").write_text(card.text(run, step, base, findings))
    scratch.rename(out)
    return findings


def prove(folder: Path, form: str, dtype: str, base: str, expected: list[float], texts: list[list[int]],
          vllm: bool) -> list[Finding]:  # fmt: skip
    """What holds of the written folder; `expected` are the log-probabilities of the checkpoint itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain_verl.exporting import model as models

    written = models.read_written(folder, form, base)
    findings = [proof.agreement(proof.AGREES, expected,
                                proof.logprobs(written, texts), dtype)]  # fmt: skip
    if form == "merged" and vllm:
        findings.append(proof.agreement_of_vllm("vLLM agrees with the checkpoint", folder, expected, texts, dtype))
    else:
        why = "an adapter is no model of its own" if form == "adapter" else "vllm=false"
        findings.append(Finding("vLLM agrees with the checkpoint", None, why))
    if not Path(base).is_dir():
        return [*findings, Finding("differs from its base", None, f"{base} is not on this machine")]
    if form == "adapter":
        findings.append(proof.change_by_adapter(written))
    else:
        before = AutoModelForCausalLM.from_pretrained(base)
        findings.append(proof.change(before.state_dict(), written.state_dict()))
    kept = proof.tokens_kept(AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(folder))
    return [*findings, kept]


def dtype_of(base: str) -> str:
    """The dtype that the base's config.json names; float32 where it names none."""
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(base).dtype or "float32").removeprefix("torch.")


def sample(config: Any, tokenizer_folder: Path) -> list[list[int]]:
    """Token ids of a few conversations of the run's own data, as its template renders them."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    files = config.data.val_files or config.data.train_files
    file = Path(files if isinstance(files, str) else files[0])
    if not file.is_file():
        rows = [
            {"messages": [{"role": "user", "content": f"What is {n} + {n}? Explain each step."}]} for n in range(TEXTS)
        ]
    else:
        rows = next(pq.ParquetFile(file).iter_batches(TEXTS)).to_pylist()
    chats = [row.get("messages") or row["prompt"] for row in rows]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    return [tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS] for text in rendered]


def read_arguments(words: list[str]) -> dict[str, str]:
    """The words of the command line over OPTIONS.

    Raises:
        InputError: an unknown word or value, or no run.
    """
    given, problems = options.read("export", words, OPTIONS)
    if not given["run"]:
        problems.append(Problem("run= is missing", "add run=ID; python -m posttrain_verl.list shows them"))
    if given["step"] and not given["step"].isdecimal():
        problems.append(Problem(f"step={given['step']} is no number", "leave it out for the newest checkpoint"))
    for key, known in VALUES.items():
        if given[key] and given[key].lower() not in known:
            problems.append(Problem(f"{key}={given[key]} is unknown", one_of(given[key], known, f"{key}=")))
    if problems:
        raise InputError(TITLE, problems)
    return given


def show(findings: list[Finding], out: Path) -> None:
    table = Table("", "holds", "seen", title=str(out))
    for finding in findings:
        table.add_row(finding.name, {True: "yes", False: "NO", None: "-"}[finding.passed], finding.saw)
    stdout().print(table)


def main() -> int:
    """The verb."""
    parser = options.parser("export", __doc__)
    parser.add_argument("--json", action="store_true", help="print the folder and what was found as JSON")
    arguments = parser.parse_intermixed_args()
    return exit_code(lambda: write(read_arguments(arguments.words), arguments.json), as_json=arguments.json)


def write(asked: dict[str, str], as_json: bool) -> int:
    """The verb without its command line. Raises InputError."""
    run = RunFolder.find(asked["run"], asked["posttrain.runs_dir"])
    step = int(asked["step"]) if asked["step"] else run.checkpoint_step(run.read_plan()["stage"])
    out = Path(asked["posttrain.out"] or run.path / f"export-{step}").expanduser().absolute()
    if out.exists():
        raise InputError(TITLE, [Problem(f"{out} exists already", "remove it, or posttrain.out=ANOTHER")])
    if problems := options.folder("posttrain.out", str(out)):
        raise InputError(TITLE, problems)
    findings = export(run, out, step, asked["form"].lower(), asked["dtype"].lower(), asked["vllm"].lower() == "true")
    if as_json:
        print(json.dumps({"folder": str(out), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(findings, out)
    return 1 if any(finding.passed is False for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
