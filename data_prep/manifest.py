"""manifest.json: what a built folder holds and where it came from. Its presence means the build is complete."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, Problem
from reward_fns.own import OwnReward

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
DIGEST_KEY = "manifest_sha256"  # of all the other keys


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def config_digest(config: Mapping[str, Any]) -> str:
    """Hex sha256 of a configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def describe_reward(reward: OwnReward) -> dict[str, Any]:
    """What a manifest says of the user's own reward that graded the golds."""
    digest = file_sha256(reward.file) if reward.file else None
    return {"name": reward.shown, "sha256": digest, "arguments": dict(reward.arguments)}


def write_manifest(out_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest by rename, so that readers see all of it or nothing."""
    content = {key: value for key, value in manifest.items() if key != DIGEST_KEY}
    manifest = content | {DIGEST_KEY: config_digest(content)}
    scratch = out_dir / f".{FILE_NAME}.{os.getpid()}"
    scratch.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(scratch, out_dir / FILE_NAME)


def read_manifest(out_dir: Path) -> dict[str, Any]:
    """The manifest of a finished build. Raises DataError if there is none or it cannot be read."""
    path = out_dir / FILE_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(Problem(str(path), "is missing, so the build is not finished", "build the mix")) from None
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read ({error.strerror})", "give another folder")) from None
    except (ValueError, RecursionError) as error:
        raise DataError(Problem(str(path), f"is not JSON ({error})", "build the mix again")) from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(Problem(str(path), "lists no files", "build the mix again"))
    return manifest


def describe_drops(entry: Mapping[str, Any]) -> str:
    """The dropped rows of one source: "3 truncated, 22 false_step (from sft)". Empty if there are none."""
    said = [f"{count} {reason}" for reason, count in (entry.get("drops") or {}).items()]
    for kind, drops in (entry.get("unfit") or {}).items():
        said += [f"{count} {reason} (from {kind})" for reason, count in drops.items()]
    return ", ".join(said)


def verify(out_dir: Path) -> list[Problem]:
    """Every way in which the files differ from the manifest; empty if none. Raises DataError without a manifest."""
    remedy = "build the mix again, or copy the folder again"
    problems = []
    manifest = read_manifest(out_dir)
    if manifest.pop(DIGEST_KEY, None) != config_digest(manifest):
        problems.append(Problem(str(out_dir / FILE_NAME), "is not as it was written", remedy))
        return problems
    files = manifest["files"]
    for extra in sorted({path.name for path in out_dir.glob("*.parquet")} - set(files)):
        problems.append(Problem(str(out_dir / extra), "is in the folder but not in the manifest", "move it elsewhere"))
    for name, entry in files.items():
        path = out_dir / name
        if not path.is_file():
            problems.append(Problem(str(path), "is in the manifest but not in the folder", remedy))
        elif (seen := file_sha256(path)) != entry["sha256"]:
            what = f"has sha256 {seen[:12]}..., the manifest says {entry['sha256'][:12]}..."
            problems.append(Problem(str(path), what, remedy))
    return problems
