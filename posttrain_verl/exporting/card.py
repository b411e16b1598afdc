"""The model card of an export: what was trained from what, on which data, what was measured, and under which licences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain_verl.exporting.proof import Finding
from posttrain_verl.run.folder import RunFolder


def text(run: RunFolder, step: int, base: str, findings: list[Finding]) -> str:
    """README.md of the export: front matter for the hub, then the facts."""
    from huggingface_hub import ModelCardData

    plan = run.read_plan()
    base = plan["base_model"] if Path(base).is_dir() else base  # a path of one machine tells nobody else anything
    data = ModelCardData(base_model=base, library_name="transformers", pipeline_tag="text-generation",
                         tags=["verl", plan["stage"], plan["recipe"]])  # fmt: skip
    lines = ["---", data.to_yaml(), "---", f"# {run.path.parent.name}/{run.path.name}, step {step}", ""]
    lines += [
        f"Trained from `{base}` by VeRL with posttrain_verl's recipe `{plan['recipe']}` ({plan['stage'].upper()}).",
        "",
    ]
    lines += ["```", f"python -m posttrain_verl.launch {' '.join(plan['overrides'])}", "```", ""]
    for title, section in [
        ("Measured", measured(run)),
        ("Data", data_used(run)),
        ("Proof of the export", proved(findings)),
    ]:
        lines += [f"## {title}", "", *(section or ["nothing recorded"]), ""]
    return "\n".join(lines)


def measured(run: RunFolder) -> list[str]:
    """A table of the run's evaluations, eval/*.json."""
    rows = [json.loads(file.read_text()) for file in sorted((run.path / "eval").glob("*.json"))]
    if not rows:
        return []
    head = ["| model | set | accuracy [95 %] | n |", "|---|---|---|---|"]
    return head + [_row(found) for found in rows]


def _row(found: dict[str, Any]) -> str:
    accuracy = found["metrics"]["accuracy"]
    interval = f"{accuracy['value']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}]"
    return f"| {found.get('label') or found['model']} | {found['eval']} | {interval} | {accuracy['n']} |"


def data_used(run: RunFolder) -> list[str]:
    """The manifests beside the Parquet files that the run trained on: sources with licence and revision."""
    from omegaconf import OmegaConf

    files = OmegaConf.select(OmegaConf.load(run.config), "data.train_files")
    folders = {Path(str(file)).parent for file in ([files] if isinstance(files, str) else files or [])}
    return [line for folder in sorted(folders) for line in _manifest_lines(folder / "manifest.json")]


def _manifest_lines(file: Path) -> Iterator[str]:
    if not file.is_file():
        yield f"* `{file.parent.name}`: no manifest"
        return
    manifest = json.loads(file.read_text())
    yield f"* mix `{file.parent.name}`, seed {manifest.get('seed')}, mix sha256 `{manifest['mix_sha256'][:16]}`"
    for name, source in manifest["sources"].items():
        yield f"  * `{name}`: {source.get('licence', 'licence not recorded')}"
    inspected = manifest.get("inspected")
    yield f"  * inspected: {inspected if inspected else 'no'}"


def proved(findings: list[Finding]) -> list[str]:
    verdicts = {True: "yes", False: "NO", None: "not looked at"}
    return [f"* {finding.name}: {verdicts[finding.passed]} ({finding.saw})" for finding in findings]
