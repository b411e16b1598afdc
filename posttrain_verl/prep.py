"""Build the data of a mix: `python -m posttrain_verl.prep mix=NAME [limit=200] [posttrain.data_dir=DIR] [key=value]`.

`mix=` is a name of conf/mix or the path of a yaml file (without it: embedded). Keys are those of the mix (`seed=3`,
`splits.rl_train.rows=500`, also under `posttrain.mix.`); `budget=N` makes all splits together N rows.
The result lies in `<data_dir>/<name of the mix>/`, with manifest.json written last. A finished build of the same mix
is not made again, unless with --force. --verify reads every byte of a finished build against its manifest.
Exit codes: 0 done, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import data_prep
from posttrain_verl import options, paths
from posttrain_verl.problem import InputError, Problem, exit_code, one_of

PLACE = {"mix": "embedded", "posttrain.data_dir": "data"}  # what is no key of the mix itself


@dataclass(frozen=True)
class MixChoice:
    """A mix as the command line asks for it, and the folder of its data."""

    config: dict[str, Any]
    folder: Path


def choose(words: list[str]) -> MixChoice:
    """The mix that `mix=NAME key=value ...` stands for. Raises InputError, also for a key that no mix has."""
    ours = [word for word in words if word.partition("=")[0] in PLACE]
    asked, problems = options.read("prep", ours, PLACE)
    keys = [word.removeprefix("posttrain.").removeprefix("mix.") for word in words if word not in ours]
    problems += [Problem(f"'{word}' is no key=value", "write mix=NAME") for word in keys if "=" not in word]
    problems += options.folder("posttrain.data_dir", asked["posttrain.data_dir"])
    if problems:
        raise InputError("the command line cannot be read", problems)
    config = _load(_file(asked["mix"]), keys)
    with told(f"mix {config['name']!r} cannot be read"):
        data_prep.parse(config)
    return MixChoice(config, Path(asked["posttrain.data_dir"]).expanduser() / str(config["name"]))


def _file(name: str) -> Path:
    given = Path(name).expanduser()
    if given.suffix in (".yaml", ".yml") and given.is_file():
        return given
    file = paths.conf_dir() / "mix" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(each.stem for each in file.parent.glob("*.yaml"))
        what = f"mix={name} is neither a mix of conf/mix nor a yaml file"
        raise InputError("there is no such mix", [Problem(what, one_of(name, known, "mix="))])
    return file


def _load(file: Path, keys: list[str]) -> dict[str, Any]:
    try:
        config = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(keys))
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        what = " ".join(str(error).split())[:300]
        raise InputError(f"the mix {file.name} cannot be read", [Problem(what, "correct the yaml")]) from None
    if not isinstance(plain, dict):
        raise InputError(f"the mix {file.name} cannot be read", [Problem("it is no mapping", "write key: value lines")])
    return {"name": file.stem, **{str(key): value for key, value in plain.items()}}


def build(choice: MixChoice, force: bool = False) -> dict[str, Any]:
    """Build the mix, unless a finished build of it is there; returns the manifest."""
    if not force and data_prep.is_complete(choice.folder, choice.config):
        print(f"{choice.folder} holds a finished build of this mix; --force builds it again", file=sys.stderr)
        return data_prep.read_manifest(choice.folder)
    return data_prep.build(choice.config, choice.folder, progress=lambda line: print(line, file=sys.stderr, flush=True))


@contextmanager
def told(title: str) -> Iterator[None]:
    """What is wrong with the data is the user's mistake: a DataError becomes an InputError."""
    try:
        yield
    except data_prep.DataError as error:
        shown = [Problem(f"{problem.where}: {problem.what}", problem.remedy) for problem in error.problems]
        raise InputError(title, shown) from None


def describe(folder: Path, manifest: dict[str, Any]) -> str:
    """What a build holds, for people."""
    lines = [f"{folder}"]
    for name, entry in manifest["files"].items():
        if "rows" in entry:
            sources = ", ".join(f"{rows} {source}" for source, rows in entry["rows_by_source"].items())
            lines.append(f"  {name:20} {entry['rows']:>8} rows  ({sources})  {entry['sha256'][:12]}")
    for name, entry in manifest["overlap"].items():
        found = ", ".join(f"{rows} rows share {size}" for size, rows in entry["rows_by_overlap"].items())
        lines.append(
            f"  overlap with {name}: {found or 'no row read'}; {entry['dropped']} dropped, {entry['left_in']} left in"
        )
    return "\n".join(lines)


def run(words: list[str], *, verify: bool = False, force: bool = False, as_json: bool = False) -> int:
    """The verb without its command line. Raises InputError."""
    choice = choose(words)
    title = f"mix {choice.config['name']!r} cannot be {'verified' if verify else 'built'}"
    with told(title):
        problems = data_prep.verify(choice.folder) if verify else []
        if problems:
            raise data_prep.DataError(*problems)
        manifest = data_prep.read_manifest(choice.folder) if verify else build(choice, force)
    if as_json:
        print(json.dumps({"ok": True, "folder": str(choice.folder), "manifest": manifest}, ensure_ascii=False))
    else:
        print(("verified: " if verify else "") + describe(choice.folder, manifest))
    return 0


def main() -> int:
    """The verb."""
    parser = options.parser("prep", __doc__)
    parser.add_argument("--verify", action="store_true", help="check a finished build against its manifest")
    parser.add_argument("--force", action="store_true", help="build again what is already there")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    given = parser.parse_intermixed_args()
    work = partial(run, given.words, verify=given.verify, force=given.force, as_json=given.json)
    return exit_code(work, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
