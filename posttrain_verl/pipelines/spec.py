"""What a pipeline is: a file of conf/pipeline, and the words of the command line over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posttrain_verl import options, paths
from posttrain_verl.evaluation.job import KINDS
from posttrain_verl.pipelines.plateau import Plateau
from posttrain_verl.problem import InputError, Problem, one_of

TITLE = "no pipeline"
TEST = "test"  # in `evals`: the test split of the mix that was trained on
OWN = ("recipe", "id", "seed")
SETTINGS = ("require_inspected", "export", "report")
RULE: dict[str, type] = {"plateau.metric": str, "plateau.patience": int, "plateau.min_gain": float}
STAGES = ("sft", "rl", "evaluate")


@dataclass(frozen=True)
class Spec:
    """`sft` and `rl` are recipes, `evals` names of conf/eval or "test"; `words` are those for each verb that is called:
    "all" for both launches, "sft", "rl", "evaluate"."""

    name: str
    id: str
    sft: str
    rl: str
    evals: list[str]
    plateau: Plateau | None
    require_inspected: bool = True
    export: bool = True
    report: bool = True
    seed: int | None = None
    words: dict[str, list[str]] = field(default_factory=dict)


def names() -> list[str]:
    """The pipelines there are."""
    return sorted(file.stem for file in (paths.conf_dir() / "pipeline").glob("*.yaml"))


def read(words: list[str]) -> Spec:
    """The pipeline that `recipe=NAME [id=ID] [seed=N] [plateau.KEY=value] [key=value] [sft:key=value] ...` asks for.

    Raises:
        InputError: no such pipeline, a word that is none, or a plateau that cannot be.
    """
    own, given = _sorted(words)
    if own.get("recipe") not in names():
        what = f"recipe={own['recipe']} is no pipeline" if own.get("recipe") else "no pipeline is named"
        remedy = f"recipe=NAME, a file of conf/pipeline; {one_of(str(own.get('recipe')), names(), 'recipe=')}"
        raise InputError(TITLE, [Problem(what, remedy)])
    file = paths.conf_dir() / "pipeline" / f"{own['recipe']}.yaml"
    shipped = cast(dict[str, Any], OmegaConf.to_container(_load(file)))
    for stage, more in (shipped.pop("words", None) or {}).items():
        given[stage] = [*more, *given.get(stage, [])]
    chosen = {key: own[key] for key in SETTINGS if key in own}
    seed = own.get("seed", shipped.pop("seed", None))
    shipped.pop("seed", None)
    try:
        given_rule = {key.partition(".")[2]: kind(own[key]) for key, kind in RULE.items() if key in own}
        rule = (shipped.pop("plateau", None) or {}) | given_rule
        plateau = Plateau(**rule) if rule else None
        name = str(own["recipe"])
        identity = str(own.get("id") or (f"seed{seed}" if seed is not None else "0"))
        return Spec(**{**shipped, **chosen}, name=name, id=identity, seed=seed, plateau=plateau, words=given)
    except (TypeError, ValueError) as error:
        raise InputError(TITLE, [Problem(f"conf/pipeline/{own['recipe']}.yaml: {error}")]) from error


def _sorted(words: list[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Our own words by key, and the others by the verb they are for."""
    own: dict[str, Any] = {}
    given: dict[str, list[str]] = {}
    problems = []
    for word in words:
        key, equals, value = word.partition("=")
        stage, colon, rest = word.partition(":")
        if not equals:
            problems.append(Problem(f"'{word}' is no key=value", "write key=value, or sft:key=value for one stage"))
        elif key in (*OWN, *SETTINGS, *RULE):
            own[key] = options.plain(value)
        elif colon and stage in STAGES:
            given.setdefault(stage, []).append(rest)
        else:
            given.setdefault("all", []).append(word)
    if "seed" in own and not isinstance(own["seed"], int):
        problems.append(Problem(f"seed={own['seed']} is no whole number", "seed=1"))
    problems += [Problem(f"{key}={own[key]} is neither true nor false", f"{key}=true, or {key}=false")
                 for key in SETTINGS if not isinstance(own.get(key, True), bool)]  # fmt: skip
    if "/" in str(own.get("id")):
        problems.append(Problem(f"id={own['id']} is no name", "posttrain.runs_dir moves the folder"))
    for word in given.get("evaluate", []):  # which would be read when all is trained
        if word.partition("=")[0] not in KINDS:
            problems.append(
                Problem(f"'evaluate:{word}' is no option of evaluate", one_of(word.partition("=")[0], list(KINDS)))
            )
    if problems:
        raise InputError(TITLE, problems)
    return own, given


def _load(file: Path) -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.load(file))
    except OmegaConfBaseException as error:
        raise InputError(TITLE, [Problem(f"{file} cannot be read: {error}")]) from error


def seeded(spec: Spec, stage: str, data_dir: str) -> list[str]:
    """The words that give a stage the pipeline's seed; each seed has data of its own, held-out questions included."""
    if spec.seed is None:
        return [f"posttrain.data_dir={data_dir}"]
    shared = [f"posttrain.data_dir={data_dir}/seed{spec.seed}", f"posttrain.mix.seed={spec.seed}"]
    rl = [f"data.seed={spec.seed}", f"actor_rollout_ref.rollout.seed={spec.seed}"]
    return [*shared, *(rl if stage == "rl" else [])]


def value_of(words: list[str], key: str, default: str) -> str:
    """The last value that words give a key."""
    return next((word.partition("=")[2] for word in reversed(words) if word.partition("=")[0] == key), default)
