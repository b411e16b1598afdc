"""The verb `prep`: the data of a mix, built into `<data_dir>/<name of the mix>/` with manifest.json written last.

A finished build of the same mix is not made again, unless with `--force`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import data_prep
from posttrain_verl import own_reward
from posttrain_verl.mixes import build_mix, choose_mix, data_errors_as_input
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Prep


def describe_build(folder: Path, manifest: dict[str, Any]) -> str:
    lines = [f"{folder}"]
    for name, entry in manifest["files"].items():
        if "rows" in entry:
            sources = ", ".join(f"{rows} {source}" for source, rows in entry["rows_by_source"].items())
            lines.append(f"  {name:20} {entry['rows']:>8} rows  ({sources})  {entry['sha256'][:12]}")
    for name, entry in manifest["overlap"].items():
        found = ", ".join(f"{rows} rows share {size}" for size, rows in entry["rows_by_overlap"].items())
        rest = f"{entry['dropped']} dropped, {entry['left_in']} left in"
        lines.append(f"  overlap with {name}: {found or 'no row read'}; {rest}")
    return "\n".join(lines)


def run(asked: Prep) -> int:
    """The verb without its command line. Raises InputError."""
    reward = own_reward.read_reward(asked.reward, asked.arguments)
    keys = own_reward.other_arguments(asked.arguments) + ([f"limit={asked.rows}"] if asked.rows else [])
    choice = choose_mix(asked.mix, asked.data_dir, keys, any_source=reward is not None or asked.verify)
    title = f"mix {choice.config['name']!r} cannot be {'verified' if asked.verify else 'built'}"
    with data_errors_as_input(title):
        problems = data_prep.verify(choice.folder) if asked.verify else []
        if problems:
            raise data_prep.DataError(*problems)
        manifest = data_prep.read_manifest(choice.folder) if asked.verify else build_mix(choice, asked.force, reward)
    if asked.as_json:
        print(json.dumps({"ok": True, "folder": str(choice.folder), "manifest": manifest}, ensure_ascii=False))
    else:
        print(("verified: " if asked.verify else "") + describe_build(choice.folder, manifest))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Prep, run))
