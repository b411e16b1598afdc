"""What the verbs that compose a recipe share, `launch` and `check`: `--cfg job`, `--multirun`, or the verb itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from posttrain_verl import compose, preflight, verbs
from posttrain_verl.base_models import naming
from posttrain_verl.overrides import expand_keys, quote_value
from posttrain_verl.terminal.command_line import fields
from posttrain_verl.verl.composed import Composed


def run(asked: verbs.RecipeVerb, verb: Callable[[Composed], int]) -> int:
    """Compose what the arguments ask for, hand it to `verb`, and return the exit code.

    With `--cfg job` what VeRL would get is printed instead. With `--multirun` Hydra's sweeper composes the jobs, and each runs
    as a command of its own. Raises InputError where the arguments do not compose.
    """
    typed = expand_keys(list(asked.arguments))
    may_export = not isinstance(asked, verbs.Check)
    arguments = [each for argument in typed for each in name_weights(argument, typed, may_export)]
    if asked.multirun:
        from posttrain_verl import sweep  # clusters, which a single launch on this machine need not import

        own = [each for each in fields(type(asked)) if each not in fields(verbs.RecipeVerb)]
        chosen = [each.metadata["flags"][-1] for each in own if getattr(asked, each.name)]
        verb_module = f"posttrain_verl.{asked.name()}"
        if isinstance(asked, verbs.Check):  # which starts no run
            return sweep.check_sweep(verb_module, arguments, chosen)
        return sweep.run_sweep(verb_module, arguments, chosen, page_of_sweep)
    composed = compose.compose(arguments)
    if asked.cfg:
        preflight.raise_if_blocked(preflight.config_form.check_keys(composed), composed)
        print(OmegaConf.to_yaml(composed.for_run(composed.run_dir()), resolve=asked.resolve), end="")
        return 0
    return verb(composed)


def name_weights(override: str, typed: list[str], may_export: bool) -> list[str]:
    """`base_model=run:NAME` as the folder of the weights that the run trained; another override as it is.

    `typed` are all overrides, which may name the folder of the runs. Where the newest checkpoint has shards only, it is exported
    if `may_export`, and else the folder beside the shards is meant.

    Raises:
        InputError: there is no such run, it has no checkpoint, or it cannot be exported.
    """
    value = override.removeprefix("base_model=")
    is_one_run = value != override and value.startswith(naming.RUN_PREFIX) and "," not in value
    if not is_one_run:  # of several each member of a sweep finds its own
        return [override]
    from posttrain_verl.export import weights  # torch, which a launch of another model need not import
    from posttrain_verl.run.folder import RunFolder

    runs_dir = next((each.partition("=")[2] for each in typed if each.startswith("posttrain.runs_dir=")), "runs")
    run = RunFolder.find(value.removeprefix(naming.RUN_PREFIX), runs_dir)
    folder = weights.ensure_weights(run) if may_export else weights.present_folder(run)
    name = f"{run.path.parent.name}-{run.path.name}-{weights.newest_step(run)}"
    return [f"base_model={folder}", f"posttrain.base_model.name={quote_value(name)}",
            f"posttrain.base_model.run={quote_value(str(run.path))}"]  # fmt: skip


def page_of_sweep(folder: Path) -> Path:
    """Write the report of a sweep into its folder, as sweep.html, and those of its members that it links."""
    from posttrain_verl.report.__main__ import write_report

    return write_report(folder, out=folder / "sweep.html")
