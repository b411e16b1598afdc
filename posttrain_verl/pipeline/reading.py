"""From a file of conf/pipeline, or one of the user's, with the arguments of the command line over it, to a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from data_prep.declaration import OWN_NAME, as_mapping, problems_in
from posttrain_verl import verbs
from posttrain_verl.pipeline.entry import Spec
from posttrain_verl.pipeline.synthesis import Synthesis as Synthesis  # which makes this kind of entry known
from posttrain_verl.pipeline.training import Plateau, Training
from posttrain_verl.terminal.problem import InputError, Problem, located, one_of

TITLE = verbs.Pipeline.TITLE
FORMER_STAGES = ("sft", "rl")  # keys of a file before `stages` was a list
SET_BY_THE_PIPELINE = (
    "recipe",
    "posttrain.run_id",
    "posttrain.runs_dir",
    "posttrain.detach",
)  # for each of its launches
FORMER = (*FORMER_STAGES, "plateau", "words")


def read_spec(asked: verbs.Pipeline) -> Spec:
    """The pipeline that the command line asks for.

    Raises:
        InputError: its file cannot be read, has a value that cannot be, or has the former keys; none of its stages trains; an
            override is for a stage that the pipeline does not have; or a recipe does not compose.
    """
    file = asked.file
    assert file is not None  # the command line refuses another name
    config = _read_file(file)
    replaced = ("run_id", "seed", "require_inspected", "export", "report")
    config |= {key: value for key in replaced if (value := getattr(asked, key)) is not None}
    rule = {key: value for key in Plateau.model_fields if (value := getattr(asked, f"plateau_{key}")) is not None}
    if rule:
        _set_plateau(config.get("stages"), rule)
    seed = config.get("seed")
    older, named = config.pop("id", None), config.get("run_id")  # `id` is the key's name in an earlier version
    if older is not None and named is not None and asked.run_id is None and str(older) != str(named):
        problem = Problem(f"{file} has run_id: {named} and id: {older}, two names of one key", "keep run_id")
        raise InputError(TITLE, [problem])
    by_seed = "0" if seed is None else f"seed{seed}"
    identity = next((each for each in (named, older) if each is not None and each != ""), by_seed)
    config |= {"run_id": str(identity), OWN_NAME: file.stem, "runs_dir": Path(asked.runs_dir).expanduser().absolute()}
    try:
        spec = Spec.model_validate(config)
    except ValidationError as error:
        raise InputError(TITLE, located(problems_in(error))) from error
    if not any(isinstance(entry, Training) for entry in spec.stages):
        problem = Problem(f"{file} has no stage that trains", f"add one to stages: - {{{Training.KEY}: NAME}}")
        raise InputError(TITLE, [problem])
    _add_overrides(spec, asked)
    return spec


def _read_file(file: Path) -> dict[str, Any]:
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        what = f"{file} cannot be read: {' '.join(str(error).split())}"
        raise InputError(TITLE, [Problem(what, "correct the yaml")]) from error
    if not isinstance(config, dict):
        raise InputError(TITLE, [Problem(f"{file} is not a mapping", "write `key: value` lines")])
    if former := [key for key in FORMER if key in config]:
        what = f"{file} has {', '.join(former)} at its top; the trainings of a pipeline are a list now"
        raise InputError(TITLE, [Problem(what, f"write it so:\n{_present_form(config)}")])
    return {str(key): value for key, value in config.items()}


def _present_form(former: dict[str, Any]) -> str:
    """The yaml of a file with the former keys, as it is written now."""
    words, rule = as_mapping(former.get("words")), former.get("plateau")
    stages: list[dict[str, Any]] = [{"recipe": former[key]} for key in FORMER_STAGES if key in former]
    for entry, key in zip(stages, [key for key in FORMER_STAGES if key in former], strict=True):
        entry |= {"overrides": words[key]} if key in words else {}
    if stages and rule:  # which ended the first stage
        stages[0]["plateau"] = rule
    shared = {new: words[old] for old, new in (("all", "overrides"), ("evaluate", "evaluate")) if old in words}
    kept = {key: value for key, value in former.items() if key not in FORMER}
    return OmegaConf.to_yaml(OmegaConf.create({"stages": stages, **kept, **shared}))


def _set_plateau(stages: Any, rule: dict[str, Any]) -> None:
    """Change the rule of each training that has one. Where none has one, the first gets it."""
    entries = [each for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    trainings = [entry for entry in entries if Training.KEY in entry]
    for entry in [each for each in trainings if each.get("plateau")] or trainings[:1]:
        if isinstance(given := entry.get("plateau"), Mapping | None):  # the declaration refuses any other
            entry["plateau"] = {**as_mapping(given), **rule}


def _add_overrides(spec: Spec, asked: verbs.Pipeline) -> None:
    """Add the overrides of the command line to those of the file.

    Raises:
        InputError: one is for a stage that is not there, or, in the file as well, for a key that the pipeline itself sets.
    """
    places = {entry.name: entry.overrides for entry in spec.stages} | {"evaluate": spec.evaluate}
    problems = []
    for prefix, given in asked.overrides_by_stage().items():
        if prefix and prefix not in places:
            what = f"'{prefix}:{given[0]}' is for {prefix}, which is not a stage of this pipeline"
            problems.append(Problem(what, one_of(f"{prefix}:", [f"{name}:" for name in places])))
        else:
            (places[prefix] if prefix else spec.overrides).extend(given)
    for entry in spec.stages:
        for override in entry.overrides:
            if remedy := entry.misuse(override):
                problems.append(Problem(f"'{entry.name}:{override}' is not an option of {entry.KEY}", remedy))
    launches = {"": spec.overrides} | {f"{entry.name}:": entry.overrides for entry in spec.stages}
    for prefix, override in ((prefix, each) for prefix, overrides in launches.items() for each in overrides):
        if override.partition("=")[0].lstrip("+~") in SET_BY_THE_PIPELINE:
            what = f"'{prefix}{override}' is for a key that the pipeline itself sets for each launch"
            problems.append(
                Problem(what, "leave it out; run_id= and posttrain.runs_dir= of the pipeline name its folder")
            )
    if problems:
        raise InputError(TITLE, problems)
