"""The command line that the verbs share: overrides, `--cfg job`, `--multirun`, and the exit codes.

Exit codes: 0 done, 1 the work failed, 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from omegaconf import OmegaConf

from posttrain_verl import compose, options, overrides, preflight, sweep
from posttrain_verl.compose import Composed
from posttrain_verl.problem import exit_code

Verb = Callable[..., int]
FLAGS = {"json": "print the result as JSON", "rehearse": "run it small on the CPU (docs/rehearsal.md)",
         "dry_run": "with cluster=slurm or kuberay: print what would be handed over"}  # fmt: skip


def run(verb: Verb, argv: list[str], flags: tuple[str, ...] = ()) -> int:
    """Compose what the words of `argv` ask for, hand it to `verb`, and return the exit code.

    `verb` takes a `Composed` and, as keywords, the booleans named in `flags`, keys of FLAGS (`("json",)` for `--json`). With
    `--cfg job` it is not called: what VeRL would get is printed. With `--multirun` Hydra's sweeper composes the jobs
    and each runs as a command of its own.
    """
    module, about = _module_of(verb)
    arguments = _parser(module, about, flags).parse_intermixed_args(argv)
    chosen = {flag: getattr(arguments, flag) for flag in flags}
    return exit_code(lambda: _answer(verb, module, arguments, chosen), as_json=chosen.get("json", False))


def _answer(verb: Verb, module: str, arguments: argparse.Namespace, chosen: dict[str, bool]) -> int:
    if arguments.multirun:
        return sweep.run(module, arguments.words, [_option(flag) for flag, on in chosen.items() if on])
    composed = compose.compose(arguments.words)
    if arguments.cfg:
        return show(composed, arguments.resolve)
    return verb(composed, **chosen)


def show(composed: Composed, resolve: bool = False) -> int:
    """Print what VeRL would get, as yaml."""
    preflight.require(preflight.keys.check(composed), composed)
    print(OmegaConf.to_yaml(composed.for_run(composed.run_dir()), resolve=resolve), end="")
    return 0


def _parser(module: str, about: str | None, flags: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = options.parser(module.rpartition(".")[2], about)
    known = ", ".join(overrides.names("recipe"))
    parser.epilog = f"recipes: {known}; any key of VeRL is an option, and docs/config.md lists ours"
    parser.add_argument("--cfg", choices=["job"], help="print what VeRL would get, and stop")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: resolve interpolations")
    parser.add_argument("-m", "--multirun", action="store_true", help="one run for each of the values a=1,2 b=3,4")
    for flag in flags:
        parser.add_argument(_option(flag), action="store_true", help=FLAGS[flag])
    return parser


def _option(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def _module_of(verb: Verb) -> tuple[str, str | None]:
    """The name and the docstring of the verb's module, which calls itself `__main__` where `python -m` started it."""
    place = verb.__globals__
    spec = place["__spec__"]
    return spec.name if spec else "__main__", place["__doc__"]
