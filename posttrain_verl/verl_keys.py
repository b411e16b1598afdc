"""Which keys the installed VeRL knows, read from its files without importing it.

Three sources: the composed tree of the stage, the fields of the dataclass that a node's `_target_` names (VeRL builds
the node with it, so fields missing in the yaml are live too), and a short list of keys that VeRL 0.9.1 reads with
`.get()` though neither of the two has them.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from posttrain_verl import paths

# Read with .get() by VeRL 0.9.1 (found by scanning its sources), in no yaml and no dataclass. `model_engine` is the
# option of a group, which VeRL's tree repeats as a key.
READ_UNLISTED = frozenset(
    {
        "data.cache_dir",
        "data.chat_template_func",
        "data.filter_prompts",
        "data.need_tools_kwargs",
        "model_engine",
        "reward.estimated_tokens_per_request",
        "reward.max_rpm",
        "reward.max_tpm",
        "reward.reward_kwargs",
        "reward.custom_reward_function.reward_kwargs",
        "reward.timeout",
        "trainer.remove_previous_ckpt_in_save",
        "actor_rollout_ref.rollout.checkpoint_manager_class",
    }
)

# Nodes that VeRL hands on as they are, to a constructor or to ray.init: any key may stand in them.
FREE_FORM = frozenset({"ray_init", "teacher_models", "mbridge_config", "fused_kernel_options", "kw_args",
                       "controller_nsight_options", "worker_nsight_options", "override_config"})  # fmt: skip

OUR_FREE_FORM = frozenset({"posttrain.cluster.env", "posttrain.cluster.node_selector"})


def is_free_form(path: str) -> bool:
    """Whether any key may stand below `path`, e.g. actor_rollout_ref.rollout.engine_kwargs.vllm."""
    return path in OUR_FREE_FORM or any(
        name in FREE_FORM or name.endswith("_kwargs") or name.startswith("override_") for name in path.split(".")
    )


def generated_tree(choices: dict[str, str]) -> dict[str, Any] | None:
    """VeRL's composed ppo_trainer as it ships it, or None when the choices of VeRL's groups are not its defaults.

    Reading this file takes 20 ms where composing the same tree takes most of a second.
    """
    engine = choices.get("model_engine", "dp")
    name = "_generated_ppo_trainer.yaml" if engine == "dp" else f"_generated_ppo_{engine}_trainer.yaml"
    file = paths.verl_config_dir() / name
    if not file.is_file() or any(choices.get(g) != c for g, c in _default_choices(engine).items()):
        return None
    return _load(file)


def _default_choices(engine: str) -> dict[str, str]:
    entries = _load(paths.verl_config_dir() / "ppo_trainer.yaml")["defaults"]
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {_choice_key(g): option.replace("${model_engine}", engine) for g, option in pairs if g != "model_engine"}


def _choice_key(entry: str) -> str:
    """`data@data` is listed among Hydra's choices as `data`: the package is the group's own."""
    group, _, package = entry.partition("@")
    return group if package == group else entry


def _load(file: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)


@cache
def dataclass_fields(target: str) -> dict[str, str]:
    """Field names of the dataclass at `target` (dotted, as in `_target_`), each with its annotation as written.

    Fields of base classes are included. A class that is not found, or no class at all (""), has none.
    """
    node = class_of(target)
    if node is None:
        return {}
    fields: dict[str, str] = {}
    for base in node.bases:
        fields |= dataclass_fields(f"{target.rpartition('.')[0]}.{ast.unparse(base).rpartition('.')[2]}")
    annotated = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return fields | {ast.unparse(statement.target): ast.unparse(statement.annotation) for statement in annotated}


def class_of(target: str) -> ast.ClassDef | None:
    """The class at `target` as syntax; None when there is none."""
    module, _, name = target.rpartition(".")
    return _classes(module).get(name) if module else None


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Classes defined in a module, or in any file of a package (VeRL's packages export by `from .x import *`)."""
    return {node.name: node for tree in syntax_trees(module) for node in tree.body if isinstance(node, ast.ClassDef)}


@cache
def syntax_trees(module: str, word: str = "") -> list[ast.Module]:
    """The parsed file of a module, or the files of a package; those that hold `word`. Empty when it is not installed."""
    place = paths.verl_config_dir().parents[2].joinpath(*module.split("."))
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return [ast.parse(text) for text in texts if word in text]
