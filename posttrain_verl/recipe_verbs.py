"""What `launch`, `check` and `api` share: how arguments compose, `--cfg job`, `--multirun`, or the verb itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from posttrain_verl import compose, preflight, verbs
from posttrain_verl.base_models import naming
from posttrain_verl.overrides import TRAINED_KEYS, expand_keys, name_trained, sets_key
from posttrain_verl.terminal.command_line import fields
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.checkpoints import HUGGING_FACE
from posttrain_verl.verl.composed import Composed


def run(asked: verbs.RecipeVerb, verb: Callable[[Composed], int]) -> int:
    """Compose what the arguments ask for, hand it to `verb`, and return the exit code.

    With `--cfg job` what VeRL would get is printed instead. With `--multirun` Hydra's sweeper composes the jobs, and each runs
    as a command of its own. Raises InputError where the arguments do not compose.
    """
    if asked.multirun:
        from posttrain_verl import sweep  # clusters, which a single launch on this machine need not import

        arguments = name_all_weights(list(asked.arguments), may_export=not isinstance(asked, verbs.Check))
        own = [each for each in fields(type(asked)) if each not in fields(verbs.RecipeVerb)]
        chosen = [each.metadata["flags"][-1] for each in own if getattr(asked, each.name)]
        verb_module = f"posttrain_verl.{asked.name()}"
        if isinstance(asked, verbs.Check):  # which starts no run
            return sweep.check_sweep(verb_module, arguments, chosen)
        return sweep.run_sweep(verb_module, arguments, chosen, page_of_sweep)
    composed = compose_arguments(list(asked.arguments))
    if asked.cfg:
        preflight.raise_if_blocked(preflight.config_form.check_keys(composed), composed)
        print(OmegaConf.to_yaml(composed.for_run(composed.run_dir()), resolve=asked.resolve), end="")
        return 0
    return verb(composed)


def compose_arguments(arguments: list[str]) -> Composed:
    """Compose what is typed after `launch` or `check`. Nothing is exported; see `export_weights`. Raises InputError."""
    try:
        named = name_all_weights(arguments, may_export=False)
    except InputError as error:
        raise InputError(error.title, [*error.problems, *_problems_but_for_model(arguments)]) from None
    return compose.compose(named)


def _problems_but_for_model(arguments: list[str]) -> list[Problem]:
    """What is wrong with the keys of a launch whose `base_model` means a run that cannot be used."""
    try:
        rest = [each for each in expand_keys(arguments) if not each.startswith(f"base_model={naming.RUN_PREFIX}")]
        composed = compose.compose(rest)
        form = preflight.config_form.check_shape(composed) or preflight.config_form.check_values(composed)
        return [*preflight.config_form.check_keys(composed), *form]
    except InputError as error:
        return error.problems


def export_weights(composed: Composed) -> Composed:
    """The launch with the weights that `base_model=run:NAME` means: they are exported where only shards are there.

    Raises:
        InputError: they cannot be exported.
    """
    run, folder = composed.posttrain.base_model.get("run"), Path(composed.model)
    if not run:
        return composed
    from posttrain_verl.export import weights

    if weights.is_model(folder) and (folder.name != HUGGING_FACE or weights.has_folder(folder.parent)):
        return composed
    own = [each for each in composed.overrides if not sets_key(each, ("base_model", *TRAINED_KEYS))]
    return compose.compose([*own, *name_weights(f"base_model={naming.RUN_PREFIX}{run}", own, may_export=True)])


def name_all_weights(arguments: list[str], may_export: bool) -> list[str]:
    """The overrides that were typed, short keys written out, and `base_model=run:NAME` as a folder."""
    typed = expand_keys(arguments)
    return [each for argument in typed for each in name_weights(argument, typed, may_export)]


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
    return name_trained(folder, run.path, weights.result_step(run))


def page_of_sweep(folder: Path) -> Path:
    """Write the report of a sweep into its folder, as sweep.html, and those of its members that it links."""
    from posttrain_verl.report.__main__ import write_report

    return write_report(folder, out=folder / "sweep.html")
