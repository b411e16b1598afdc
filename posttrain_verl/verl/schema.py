"""The config that the installed VeRL accepts: its keys, their types, and the names that a value may have.

Everything is read from VeRL's files, without importing VeRL. Keys come from the composed tree of the stage, from the
dataclass that a `_target_` names, and from a short list of keys that VeRL 0.9.1 reads with `.get()`. Names come from
registering decorators, from literal lists, and from comparisons in `__post_init__`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from posttrain_verl import paths
from posttrain_verl.verl.renamed import current_key, our_key

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

# What VeRL's yaml leaves open where no dataclass declares it: null by default, or a number that may be a word.
DECLARED_TYPES = {
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

# Nodes that VeRL hands on as they are, to a constructor or to ray.init: any key may stand in them.
FREE_FORM = frozenset({"ray_init", "teacher_models", "mbridge_config", "fused_kernel_options", "kw_args",
                       "controller_nsight_options", "worker_nsight_options", "override_config"})  # fmt: skip

OUR_FREE_FORM = frozenset({"posttrain.cluster.env", "posttrain.cluster.node_selector"})


def is_read_unlisted(path: str) -> bool:
    """Whether VeRL reads a key that its tree does not have."""
    return path in map(current_key, READ_UNLISTED)


def declared_type(path: str) -> str:
    """The annotation of a key that no dataclass of VeRL declares; "" where the type of VeRL's own value tells enough."""
    return DECLARED_TYPES.get(our_key(path), "")


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
    if not file.is_file():
        return None
    entries = read_yaml(paths.verl_config_dir() / "ppo_trainer.yaml")["defaults"]
    for entry, option in (pair for each in entries if isinstance(each, dict) for pair in each.items()):
        group, _, package = entry.partition("@")
        key = group if package == group else entry  # Hydra lists `data@data` among its choices as `data`
        if entry != "model_engine" and choices.get(key) != option.replace("${model_engine}", engine):
            return None
    return read_yaml(file)


def read_yaml(file: Path) -> dict[str, Any]:
    """A config file as dicts and lists, interpolations as they are written: libyaml reads ten times as fast as OmegaConf."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)


@cache
def dataclass_fields(target: str) -> dict[str, str]:
    """Field names of the dataclass at `target` (dotted, as in `_target_`), each with its annotation as written.

    Fields of base classes are included. A class that is not found, or no class at all (""), has none.
    """
    node = find_class(target)
    if node is None:
        return {}
    fields: dict[str, str] = {}
    for base in node.bases:
        fields |= dataclass_fields(f"{target.rpartition('.')[0]}.{ast.unparse(base).rpartition('.')[2]}")
    annotated = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return fields | {ast.unparse(statement.target): ast.unparse(statement.annotation) for statement in annotated}


def find_class(target: str) -> ast.ClassDef | None:
    """The class at `target` as syntax; None when there is none."""
    module, _, name = target.rpartition(".")
    return _classes_in(module).get(name) if module else None


@cache
def _classes_in(module: str) -> dict[str, ast.ClassDef]:
    """Classes defined in a module, or in any file of a package (VeRL's packages export by `from .x import *`)."""
    return {node.name: node for tree in syntax_trees(module) for node in tree.body if isinstance(node, ast.ClassDef)}


@cache
def syntax_trees(module: str, text: str = "") -> list[ast.Module]:
    """The parsed file of a module, or the files of a package; those that hold `text`. Empty when it is not installed."""
    place = paths.verl_config_dir().parents[2].joinpath(*module.split("."))
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return [ast.parse(each) for each in texts if text in each]


TYPE_NAMES = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "list": "list",
         "dict": "mapping", "tuple": "list", "None": "null"}  # fmt: skip


def accepts_value(annotation: str, value: Any) -> bool:
    """Whether `value` fits. A whole number is a number, a list stands for a tuple, a mapping for a config class; other
    class names take anything."""
    return _accepts_node(_parse_annotation(annotation), value)


def describe_annotation(annotation: str) -> str:
    """The annotation in words, e.g. "whole number or null"."""
    return " or ".join(dict.fromkeys(_describe_node(_parse_annotation(annotation))))


@cache
def _parse_annotation(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _accepts_node(node: ast.expr, value: Any) -> bool:
    if value == "???":  # OmegaConf's mark of a value that is still to come
        return True
    if alternatives := _union_members(node):
        return any(_accepts_node(each, value) for each in alternatives)
    if isinstance(node, ast.Subscript):
        name, arguments = ast.unparse(node.value), _subscript_arguments(node)
        if name == "Literal":
            return value in [ast.literal_eval(each) for each in arguments]
        if name in ("list", "List"):
            return isinstance(value, list) and all(_accepts_node(arguments[0], item) for item in value)
        if name in ("tuple", "Tuple"):
            same = isinstance(value, list) and len(value) == len(arguments)
            return same and all(_accepts_node(kind, item) for kind, item in zip(arguments, value, strict=True))
        return _accepts_name(name.lower(), value)  # dict[...], whose contents are not looked at
    return _accepts_name(ast.unparse(node), value)


def _union_members(node: ast.expr) -> list[ast.expr]:
    """The parts of `X | Y`, `Union[X, Y]` and `Optional[X]`."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Union":
        return _subscript_arguments(node)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Optional":
        return [*_subscript_arguments(node), ast.Constant(None)]
    if isinstance(node, ast.Tuple):  # VeRL writes Optional[(str | list)]
        return list(node.elts)
    return []


def _subscript_arguments(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _accepts_name(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "int": number and isinstance(value, int),
        "float": number,
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "list": isinstance(value, list),
        "tuple": isinstance(value, list),
        "dict": isinstance(value, dict),
        "None": value is None,
    }
    return fits.get(name, isinstance(value, dict) if name.endswith("Config") else True)


def _describe_node(node: ast.expr) -> list[str]:
    if alternatives := _union_members(node):
        return [name for each in alternatives for name in _describe_node(each)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        return [str(ast.literal_eval(each)) for each in _subscript_arguments(node)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("list", "tuple", "List", "Tuple"):
        inner = dict.fromkeys(name for each in _subscript_arguments(node) for name in _describe_node(each))
        return [f"list of {' and '.join(inner)}"]
    name = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
    return [TYPE_NAMES.get(name, "mapping")]


@cache
def registered_names(place: str, decorator: str) -> tuple[str, ...]:
    """Names given to `@decorator(name)` in a module or in the files of a package, e.g. `verl.trainer.ppo.core_algos`.

    A member of an enum of the same place stands for its value.
    """
    nodes = [node for tree in syntax_trees(place, decorator) for node in ast.walk(tree)]
    constants = {f"{node.name}.{name}": statement.value.value for node in nodes if isinstance(node, ast.ClassDef)
                 for statement in node.body if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
                 for name in _target_names(statement)}  # fmt: skip
    found = set()
    for node in nodes:
        for call in node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator and call.args:
                name = call.args[0]
                found.add(name.value if isinstance(name, ast.Constant) else constants.get(ast.unparse(name)))
    return tuple(sorted(str(name) for name in found if name is not None))


@cache
def listed_names(place: str, variable: str) -> tuple[str, ...]:
    """The strings in the literal list, set, table or `Literal[...]` that is assigned to `variable` in a module.

    A table gives its keys; of keys that are pairs, the first half.
    """
    for tree in syntax_trees(place, variable):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Assign | ast.AnnAssign) and node.value and variable in _target_names(node)):
                continue
            table = isinstance(node.value, ast.Dict)
            parts = [key for key in node.value.keys if key] if isinstance(node.value, ast.Dict) else [node.value]
            halves = [part.elts[0] if table and isinstance(part, ast.Tuple) else part for part in parts]
            found = [each.value for half in halves for each in ast.walk(half) if isinstance(each, ast.Constant)]
            return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))
    return ()


@cache
def compared_values(target: str) -> dict[str, tuple[Any, ...]]:
    """Fields of a dataclass that it compares with a list of allowed values in `__post_init__`, with that list.

    Base classes are read too.
    """
    node = find_class(target)
    if node is None:
        return {}
    module = target.rpartition(".")[0]
    found: dict[str, tuple[Any, ...]] = {}
    for base in node.bases:
        found |= compared_values(f"{module}.{ast.unparse(base)}")
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__post_init__":
            found |= _find_comparisons(method)
    return found


def _find_comparisons(method: ast.FunctionDef) -> dict[str, tuple[Any, ...]]:
    """`assert self.x in [...]` and `if self.x not in names: raise`, always or `if self.x is not None`."""
    lists = {
        name: node.value for node in ast.walk(method) if isinstance(node, ast.Assign) for name in _target_names(node)
    }
    found: dict[str, tuple[Any, ...]] = {}
    for statement in method.body:
        found |= _read_comparison(statement, lists)
        if isinstance(statement, ast.If):
            inner = {name: values for each in statement.body for name, values in _read_comparison(each, lists).items()}
            found |= {n: v for n, v in inner.items() if ast.unparse(statement.test) == f"self.{n} is not None"}
    return found


def _read_comparison(statement: ast.stmt, lists: dict[str, ast.expr]) -> dict[str, tuple[Any, ...]]:
    if isinstance(statement, ast.Assert):
        wanted: type[ast.cmpop] = ast.In
    elif isinstance(statement, ast.If) and any(isinstance(inner, ast.Raise) for inner in statement.body):
        wanted = ast.NotIn
    else:
        return {}
    test = statement.test
    if not (isinstance(test, ast.Compare) and isinstance(test.left, ast.Attribute) and isinstance(test.ops[0], wanted)):
        return {}
    owner, _, field = ast.unparse(test.left).rpartition(".")
    try:
        values = ast.literal_eval(lists.get(ast.unparse(test.comparators[0]), test.comparators[0]))
    except ValueError:
        return {}
    return {field: tuple(values)} if owner == "self" and values and isinstance(values, list | tuple | set) else {}


def _target_names(node: ast.Assign | ast.AnnAssign) -> list[str]:
    return [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]
