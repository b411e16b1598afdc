"""The form of the tree: nodes where VeRL has nodes, and the types that VeRL's config classes declare.

VeRL builds its dataclasses without looking at types (hydra.utils.instantiate), so that a wrong one breaks later, on a
worker. The other checks read the tree as VeRL does, so they run only on one of VeRL's form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import tree
from posttrain_verl.preflight.annotations import accepts, spoken
from posttrain_verl.problem import Problem
from posttrain_verl.verl_keys import dataclass_fields, is_free_form

ABSENT = object()  # stands for VeRL's own value of a key that only a dataclass has

# What VeRL's yaml leaves open where no dataclass declares it: null by default, or a number that may be a word.
DECLARED = {
    "trainer.save_freq": "int | Literal['after_each_epoch']",
    "trainer.test_freq": "int | Literal['after_each_epoch']",
    "trainer.total_training_steps": "Optional[int]",
    "trainer.max_ckpt_to_keep": "Optional[int]",
    "trainer.max_actor_ckpt_to_keep": "Optional[int]",
    "trainer.max_critic_ckpt_to_keep": "Optional[int]",
    "trainer.resume_from_path": "Optional[str]",
    "trainer.rollout_data_dir": "Optional[str]",
    "trainer.validation_data_dir": "Optional[str]",
    "trainer.default_hdfs_dir": "Optional[str]",
    "trainer.logger": "str | list[str]",
    "trainer.esi_redundant_time": "float",
    "trainer.v1.sampler.custom_sampler.path": "Optional[str]",
    "trainer.v1.sampler.custom_sampler.name": "Optional[str]",
    "data.train_files": "str | list[str]",
    "data.val_files": "Optional[str | list[str]]",
    "data.val_batch_size": "Optional[int]",
    "data.gen_batch_size": "Optional[int]",
    "data.seed": "Optional[int]",
    "data.tokenizer": "Optional[str]",
    "data.truncation": "str",
    "data.pad_mode": "str",
    "data.tool_config_path": "Optional[str]",
    "data.filter_overlong_prompts_workers": "Optional[int]",
    "data.micro_batch_size_per_gpu": "Optional[int]",
    "reward.custom_reward_function.path": "Optional[str]",
    "ray_kwargs.ray_init.num_cpus": "Optional[int]",
}


def check(composed: Composed) -> list[Problem]:
    """Every place where the form of the tree is not VeRL's."""
    try:
        ours = composed.resolved
    except OmegaConfBaseException as error:
        what = f"an interpolation cannot be resolved: {' '.join(str(error).split())}"
        return [Problem(what, "correct the key, or give a plain value")]
    return list(_compare(ours, tree.known(composed)))


def _compare(node: dict[str, Any], known: dict[str, Any], path: str = "", declared: str = "") -> Iterator[Problem]:
    """`declared` names the dataclass of a node that has no `_target_`."""
    target = str(known.get("_target_") or node.get("_target_") or declared)
    fields = dataclass_fields(target)
    more = [key for key in node if key in fields or (not known and isinstance(node[key], dict))]
    for key in [*known, *(key for key in more if key not in known)]:
        here = f"{path}.{key}" if path else str(key)
        theirs, annotation = known.get(key, ABSENT), fields.get(str(key), "")
        if key not in node:
            if isinstance(theirs, dict) and theirs:
                yield Problem(f"{here} was removed, and VeRL reads it", f"leave out ~{here}")
        elif isinstance(node[key], dict) and (isinstance(theirs, dict) or _takes_keys(annotation, theirs)):
            if not is_free_form(here):
                below = theirs if isinstance(theirs, dict) else {}  # an interpolation has led to the node
                yield from _compare(node[key], below, here, _class_beside(target, annotation))
        else:
            yield from _compare_value(node[key], theirs, here, annotation)


def _class_beside(target: str, annotation: str) -> str:
    """The dataclass that an annotation names, e.g. Optional[MtpConfig], as a `_target_` beside `target`; "" if none."""
    named = re.search(r"\w+Config\b", annotation)
    return f"{target.rpartition('.')[0]}.{named[0]}" if named else ""


def _compare_value(ours: Any, theirs: Any, path: str, annotation: str) -> Iterator[Problem]:
    """A node or a value first; then the declared type, or the type of VeRL's own value."""
    declared = DECLARED.get(path) or annotation
    if isinstance(theirs, dict) and ours is not None:
        yield Problem(f"{path}={ours} is a value where VeRL has keys", f"it has {', '.join(theirs)}")
    elif isinstance(ours, dict) and not _takes_keys(declared, theirs):
        yield Problem(f"{path} has keys below it where VeRL has a value", f"VeRL's own is {path}={_written(theirs)}")
    elif not isinstance(ours, dict) and not _fits(ours, theirs, declared):
        kind = spoken(declared or _kind(theirs))
        remedy = f"give {kind}" if _is_open(theirs) else f"VeRL's own is {path}={_written(theirs)}"
        yield Problem(f"{path}={_written(ours)} is {_no(kind)}", remedy)


def _takes_keys(declared: str, theirs: Any) -> bool:
    """Whether a mapping may stand here: it is declared so, or VeRL's yaml leaves it open."""
    return accepts(declared, {}) if declared else _is_open(theirs)


def _fits(ours: Any, theirs: Any, declared: str) -> bool:
    """Whether our value is what is declared, or else of the kind of VeRL's own; a word of no class may be a number.

    Null passes where VeRL's yaml has it or leaves the value to an interpolation, whatever the annotation.
    """
    same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)  # True == 1
    if same or (ours is None and theirs is not ABSENT and _is_open(theirs)):
        return True
    if declared:
        return accepts(declared, ours)
    if isinstance(theirs, str):
        return _is_open(theirs) or ours is None or isinstance(ours, str | int | float)
    return accepts(_kind(theirs), ours)


def _kind(value: Any) -> str:
    return type(value).__name__ if isinstance(value, bool | int | float | str | list) else "Any"


def _no(kind: str) -> str:
    return "neither true nor false" if kind == "true or false" else f"no {kind}"


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _is_open(value: Any) -> bool:
    return value is None or value is ABSENT or (isinstance(value, str) and ("${" in value or value == "???"))
