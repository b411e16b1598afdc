"""`posttrain VERB ...`: the same as `python -m posttrain_verl.VERB ...`, and the completion of a shell.

Completion is a script of our own that asks `posttrain _complete`. The machinery of click and of argcomplete completes options and
separate arguments: neither splits `key=value` where bash does, at every `=`, nor lists the values of a key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, util
from pathlib import Path

from posttrain_verl import __version__
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.command_line import choices, fields, key_of, type_of
from posttrain_verl.terminal.problem import InputError, Problem, exit_code, one_of
from posttrain_verl.verbs import VERBS

SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb, list the verbs, print the completion script of a shell, or answer it."""
    verb, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        print(overview())
    elif verb == "--version":
        print(f"posttrain {__version__}")
    elif verb == "completion":
        return exit_code(lambda: show_script(arguments))
    elif verb == "_complete":
        print("\n".join(candidates(" ".join(arguments))))
    else:
        return exit_code(lambda: run(verb, arguments))
    return 0


def run(verb: str, arguments: list[str]) -> int:
    """Run a verb and return its exit code. It is imported after its arguments are read. Raises InputError for an unknown one."""
    if verb not in VERBS:
        known = [*VERBS, "completion"]
        raise InputError("the command line cannot be read", [Problem(f"'{verb}' is not a verb", one_of(verb, known))])
    spec = util.find_spec(f"posttrain_verl.{verb}")
    assert spec is not None
    module = f"{spec.name}.__main__" if spec.submodule_search_locations else spec.name
    return command_line.main(VERBS[verb], lambda asked: int(import_module(module).run(asked)), arguments)


def overview() -> str:
    """The list of verbs, one a line."""
    about = {name: " ".join((declared.__doc__ or "").split()) for name, declared in VERBS.items()}
    about["completion"] = "Print the script that completes this command in a shell: bash, zsh or fish."
    lines = [f"  {name:16}{text}" for name, text in about.items()]
    return "\n".join(["usage: posttrain VERB [key=value ...] [options]", "", *lines, "",
                      "posttrain VERB --help shows what a verb takes; posttrain --version shows the version."])  # fmt: skip


def show_script(arguments: Sequence[str]) -> int:
    """Print the completion script of a shell, by default that of $SHELL. Raises InputError for an unknown shell."""
    shell = arguments[0] if arguments else os.path.basename(os.environ.get("SHELL", ""))
    if shell not in SHELLS or len(arguments) > 1:
        what = f"'{' '.join(arguments) or shell}' is not a shell that is known here"
        raise InputError("nothing to complete", [Problem(what, one_of(shell, SHELLS, "completion "))])
    print((Path(__file__).parent / "terminal" / f"completion.{shell}").read_text(), end="")
    return 0


def candidates(line: str) -> list[str]:
    """The arguments that may stand at the end of a line. One that is whole ends with a space."""
    *before, argument = line.split(" ")
    before = [each for each in before if each][1:]
    known: list[str] = []
    if not before:
        known = [f"{each} " for each in (*VERBS, "completion", "--help", "--version")]
    elif before[0] == "completion":
        known = [f"{shell} " for shell in SHELLS]
    elif declared := VERBS.get(before[0]):
        key, equals, _ = argument.partition("=")
        keys = {key_of(each): each for each in fields(declared) if not each.metadata["flags"]}
        names = declared.names()
        if equals:
            given = dict(each.split("=", 1) for each in before if "=" in each)
            values = names[key](given) if key in names else choices(type_of(declared, keys[key])) if key in keys else []
            known = [f"{key}={value} " for value in values]
        else:
            arguments = [*(f"{each}=" for each in (*names, *keys)), *(row[0] for row in declared.more_rows())]
            options = [f"{flag} " for each in fields(declared) for flag in each.metadata["flags"]]
            known = [*dict.fromkeys(arguments), *options, "--help "]
    return [each for each in known if each.startswith(argument)]


if __name__ == "__main__":
    sys.exit(main())
