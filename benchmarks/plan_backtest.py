"""The memory model against published configurations that are known to fit or not: `python benchmarks/plan_backtest.py`.

Prints the table of docs/evidence/plan.md. Exit code 0; the test that pins the agreement is tests/plan/test_memory.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import paths
from posttrain_verl.base_models import shape
from posttrain_verl.compose import verl_tree
from posttrain_verl.plan import memory
from posttrain_verl.plan.memory import Table
from posttrain_verl.verl.job import GIB
from posttrain_verl.verl.stage import stage_named

ROWS = Path(__file__).with_name("plan_backtest.yaml")


@dataclass(frozen=True)
class Verdict:
    """One configuration: what was reported, where (a key of `sources`), and what the memory model says."""

    name: str
    source: str
    fits: bool
    planned: Table

    @property
    def right(self) -> bool:
        return self.planned.fits == self.fits


def verdicts() -> list[Verdict]:
    """Every row, judged."""
    book: Any = OmegaConf.to_container(OmegaConf.load(ROWS))
    return [Verdict(row["name"], row["source"], row["fits"], judge(row, book)) for row in book["rows"]]


def judge(row: dict[str, Any], book: dict[str, Any]) -> Table:
    """The memory table of one row."""
    stage = row.get("stage", "rl")
    nodes, per_node = map(int, row["gpus"].split("x"))
    keys = {"trainer.nnodes": nodes, "trainer.n_gpus_per_node": per_node, **_micro(row, stage)}
    for name in row["from"]:
        keys |= book["defaults"][name]
    config = base(stage).copy()
    for key, value in (keys | row.get("set", {})).items():
        OmegaConf.update(config, f"actor_rollout_ref{key}" if key.startswith(".") else key, value, force_add=True)
    stage_named(stage).complete(config, frozenset())  # as VeRL did until 0.4, and our trunk does
    facts = OmegaConf.create({"memory_gb": row["gb"], "host_memory_gb": None})
    return memory.memory_table(stage_named(stage).settings(config).job(model(row["model"], book), facts, row["fill"]))


@cache
def base(stage: str) -> DictConfig:
    """VeRL's defaults, with GRPO where a row names no other estimator."""
    generated = paths.verl_config_dir() / "_generated_ppo_trainer.yaml"
    config = OmegaConf.load(generated) if stage == "rl" else OmegaConf.create(verl_tree(stage_named("sft"), {}))
    OmegaConf.set_struct(config, False)
    if stage == "rl":
        OmegaConf.update(config, "algorithm.adv_estimator", "grpo")
    return config  # type: ignore[return-value]


def model(name: str, book: dict[str, Any]) -> shape.Shape:
    if name in book["models"]:
        return shape.shape_of_config(book["models"][name])
    return shape.shape_of_config(OmegaConf.load(paths.conf_dir() / "base_model" / f"{name}.yaml").config)


def _micro(row: dict[str, Any], stage: str) -> dict[str, int]:
    """The micro batch in sequences of one data-parallel rank, and a mini batch that is at least as large."""
    if "micro" not in row or stage == "sft":
        return {}
    size = row["micro"]
    return {".actor.ppo_micro_batch_size_per_gpu": size, ".rollout.log_prob_micro_batch_size_per_gpu": size,
            ".ref.log_prob_micro_batch_size_per_gpu": size}  # fmt: skip


def main() -> int:
    found = verdicts()
    print(
        "| configuration | reported | planned | phase | GB | of | agrees | source |\n|---|---|---|---|---|---|---|---|"
    )
    for verdict in found:
        phase, peak = verdict.planned.peak
        reported, planned = ("fits" if fits else "does not fit" for fits in (verdict.fits, verdict.planned.fits))
        needs = f"{phase} | {peak / GIB:.1f} | {verdict.planned.job.memory / GIB:.1f}"
        agrees = "yes" if verdict.right else "**no**"
        print(f"| {verdict.name} | {reported} | {planned} | {needs} | {agrees} | {verdict.source} |")
    print("\nSources:\n")
    for name, source in OmegaConf.load(ROWS).sources.items():
        print(f"- {name}: {source}")
    right = sum(verdict.right for verdict in found)
    print(f"\n{right} of {len(found)} agree ({100 * right / len(found):.0f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
