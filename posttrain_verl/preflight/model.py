"""The model: its folder is complete or the hub has it, the installed vLLM can build it, and its attention can run.

An embedded model may be missing, because launch builds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from posttrain_verl import paths
from posttrain_verl.base_models import built_folder, is_embedded, naming
from posttrain_verl.preflight import machine
from posttrain_verl.terminal.problem import Problem, one_of, warning
from posttrain_verl.verl import vllm_models
from posttrain_verl.verl.checkpoints import is_whole_archive
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import FLASH, VARLEN, ModelSettings, exchanges_parts

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def check_model(composed: Composed) -> list[Problem]:
    """Problems of every model folder that the launch names."""
    found = []
    for path in dict.fromkeys(composed.models):
        if _is_folder_path(path):
            found += check_folder(Path(path).expanduser(), run=composed.posttrain.base_model.get("run"))
        elif not is_embedded(path):
            found += _check_hub(path, composed)
    return found


def find_model_folder(path: str) -> Path | None:
    """The folder of a model on this machine: its own, the one built in the cache, or a snapshot of the hub."""
    if is_embedded(path):
        return built_folder(path)
    if _is_folder_path(path):
        return Path(path).expanduser() if Path(path).expanduser().is_dir() else None
    from huggingface_hub import try_to_load_from_cache

    file = naming.is_hub_id(path) and try_to_load_from_cache(path, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def read_model_config(composed: Composed) -> dict[str, Any]:
    """The model's config.json, or what conf/base_model says of it, under the recipe's own `override_config`."""
    given: Any = composed.settings.model.override_config or {}
    folder, ours = find_model_folder(composed.model), composed.posttrain.base_model
    if folder is not None and (file := folder / "config.json").is_file():
        config = read_json(file)  # check_model reports a file that cannot be read
    else:
        config = dict(ours.get("config") or {}) if ours.get("path") == composed.model else {}
    return {**config, **(given.get("model_config") or given)}


PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def reads_media(composed: Composed) -> bool | None:
    """Whether the trained model comes with a processor of pictures, videos or sounds; None where that is not known here."""
    folder = find_model_folder(composed.model)
    if folder is not None:
        return any((folder / name).is_file() for name in PROCESSOR_FILES)
    config = read_model_config(composed)
    if "model_type" not in config:
        return False if is_embedded(composed.model) else None
    return any(name in config for name in ("vision_config", "audio_config", "visual"))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file or it holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_hub(name: str, composed: Composed) -> list[Problem]:
    """A whole snapshot in the cache is enough. Without one the hub must answer and know the model, where it is trained here."""
    if not naming.is_hub_id(name):
        return [Problem(f"{name} is neither a folder nor Organisation/Model of the hub", _HUB_REMEDY)]
    snapshot = find_model_folder(name)
    lacking = check_folder(snapshot) if snapshot else []
    if snapshot and not lacking:
        return []
    if naming.is_offline():
        what = f"model {name} is not in the cache of the hub, and HF_HUB_OFFLINE forbids to fetch it"
        return [*lacking, Problem(what, f"unset HF_HUB_OFFLINE, or first: hf download {name}")]
    if not machine.is_here(composed):
        return []
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=2.0)
    except GatedRepoError:
        remedy = f"accept its licence on the hub, then: hf auth login; hf download {name}"
        return [Problem(f"model {name} is gated", remedy)]
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = f"{name} is not a folder here, and the hub does not give out such a model (HTTP {status})"
        return [Problem(what, "check its name, and hf auth login")]
    except (httpx.HTTPError, OSError) as error:
        what = f"model {name} is not on this machine, and the hub cannot be reached ({error})"
        remedy = f"connect, or copy a snapshot: hf download {name} on another machine; or base_model=/folder"
        return [*lacking, Problem(what, remedy)]
    return []


_WEIGHTS = "weights (*.safetensors or pytorch_model*.bin)"


def check_folder(folder: Path, run: str | None = None) -> list[Problem]:
    """Problems of one Hugging Face folder. A launch exports the weights of a `run` that has shards only."""
    if not folder.is_dir():
        near = one_of(folder.name, paths.names("base_model"), "base_model=")
        remedy = f"base_model takes a folder or a name; {near}\n{_HUB_REMEDY}"
        return [Problem(f"model folder {folder} does not exist", remedy)]
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    parts = {
        "config.json": (folder / "config.json").is_file(),
        _WEIGHTS: bool(weights),
        f"tokenizer ({', '.join(TOKENIZER_FILES)})": any((folder / name).is_file() for name in TOKENIZER_FILES),
    }
    lacking = [f"no {name}" for name, is_there in parts.items() if not is_there]
    lacking += find_weight_defects(folder)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and not _is_json_object(folder / name):
            lacking.append(f"an unreadable {name}")
    if run and list(lacking) == [f"no {_WEIGHTS}"]:
        return [warning(f"{run} has its weights in shards alone", "launch exports them before anything else")]
    remedy = "give the folder that save_pretrained wrote"
    if (folder.parent / "fsdp_config.json").is_file():  # beside the shards lie config and tokenizer alone
        remedy = "the weights are in the shards beside it: python -m posttrain_verl.export run=NAME step=N, and give its folder\n"
        remedy += "or launch base_model=run:NAME, which exports them by itself"
    return [Problem(f"model folder {folder} has {', '.join(lacking)}", remedy)] if lacking else []


def find_weight_defects(folder: Path) -> list[str]:
    """What is wrong with the files of weights of a Hugging Face folder: one is missing, or cut short by its own header."""
    found, shards, index = [], set[str](), folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            found.append(f"an unreadable {index.name}")
    found += [f"no {shard}, which its index lists" for shard in sorted(shards) if not (folder / shard).is_file()]
    weights = (*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin"))
    cut = sorted(file.name for file in weights if not is_whole(file))
    return found + ([f"{', '.join(cut)} cut short, or a pointer of Git LFS"] if cut else [])


def _is_json_object(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


_HUB_REMEDY = "a model of the hub is named by base_model=Organisation/Model"


def count_parameters(folder: Path | None) -> int | None:
    """Parameters in a folder's safetensors files, read from their headers; None without folder or such files."""
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        return None
    return sum(math.prod(entry["shape"]) for file in files for entry in (_read_header(file) or {}).values())


def is_whole(file: Path) -> bool:
    """Whether a file of weights has all the bytes that its header, or the directory of its archive, speaks of."""
    with file.open("rb") as stream:
        begin = stream.read(8)
    if file.suffix != ".safetensors":  # before version 1.6 torch wrote no archives
        return is_whole_archive(file) if begin.startswith(b"PK") else not begin.startswith(b"version")
    header = _read_header(file)
    if header is None:
        return False
    start = len(begin) + int.from_bytes(begin, "little")
    return file.stat().st_size == start + max((entry["data_offsets"][1] for entry in header.values()), default=0)


def _read_header(file: Path) -> dict[str, Any] | None:
    """What the header of a safetensors file says of each tensor; None where it is cut short or is none.

    It is JSON after eight bytes of its length (https://github.com/huggingface/safetensors#format).
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            return None
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return None
    return (
        {name: entry for name, entry in header.items() if name != "__metadata__"} if isinstance(header, dict) else None
    )


def _is_folder_path(path: str) -> bool:
    """Whether a model path means a folder: it exists, or it is written like one (hub ids are Org/Model)."""
    return path.startswith(("/", ".", "~")) or Path(path).is_dir()


def check_architecture(composed: Composed) -> list[Problem]:
    """What vLLM would fail on, where the stage makes rollouts with it."""
    rollout = composed.settings.rollout
    if rollout is None or rollout.engine != "vllm":
        return []
    facts = read_model_config(composed)
    longest = int(rollout.max_model_len or facts.get("max_position_embeddings") or 0)  # null: the model's whole context
    overrides = rollout.model_overrides  # a mapping, or its JSON; vLLM reports anything else
    with suppress(ValueError):
        overrides = json.loads(overrides) if isinstance(overrides, str) else overrides
    if isinstance(overrides, dict | DictConfig):
        facts |= {str(key): value for key, value in overrides.items()}
    found = vllm_models.find_unbuildable(facts, longest)
    if machine.is_here(composed):
        return found
    return [warning(f"{problem.what}; that machine may have another vLLM", problem.remedy) for problem in found]


# What varlen refuses at the first forward pass (posttrain_verl/verl/packed_rows.py), by the keys of config.json.
VARLEN_LACKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a soft cap on attention": lambda facts: facts.get("attn_logit_softcapping"),
    "attention sinks": lambda facts: facts.get("model_type") == "gpt_oss",
    "a vision tower": lambda facts: facts.get("vision_config"),
}
# It compiles for the installed PyTorch, so it must see it.
INSTALL_FLASH = "pip install --no-build-isolation --no-deps flash-attn==2.8.3 (needs the CUDA toolkit; docs/gpu.md)"


def check_attention(composed: Composed) -> list[Problem]:
    """Problems of the attention of a run with VeRL's FSDP engines. Only this machine is searched for flash-attn."""
    if not composed.settings.uses_fsdp:
        return []
    trained, models, found = composed.settings.model, composed.settings.models, []
    is_cpu, facts = composed.posttrain.hardware.name == "cpu", read_model_config(composed)
    asked = [what for what, is_asked in VARLEN_LACKS.items() if is_asked(facts)]
    if asked and trained.attention_in_force == VARLEN:
        key = trained.key("attention")
        what = f"{composed.model} has {asked[0]}, which {key}={VARLEN} does not do"
        found.append(Problem(what, f"{key}={FLASH}, or eager"))
    for one in models:
        found += _check_attention_choice(one, too_old=not is_cpu and "bf16" not in composed.posttrain.hardware.dtypes)
    wants_flash = [one for one in models if one.attention_in_force == FLASH]
    if wants_flash and not is_cpu:
        if not found:
            machine.require_here(composed)
        # The package `kernels` fetches flash-attn from the hub.
        if machine.is_here(composed) and not any(find_spec(package) for package in ("flash_attn", "kernels")):
            keys = [one.key("attention") for one in wants_flash]
            found += [Problem(f"{key} is {FLASH}, and flash-attn is not installed", f"{key}={VARLEN}, or {INSTALL_FLASH}")
                      for key in keys]  # fmt: skip
    return found


def _check_attention_choice(trained: ModelSettings, too_old: bool) -> Iterator[Problem]:
    """`too_old` GPUs have a compute capability below 8.0, which VeRL's packed attentions need, as bf16 does."""
    key, chosen = trained.key("attention"), trained.attention_in_force
    parallel, split = trained.key("sequence_parallel"), trained.gpus_per_sequence
    if split > 1 and not exchanges_parts(chosen):  # each GPU would see its own part alone
        what = f"{parallel}={split} splits sequences, and attention across the parts does not exist in {chosen}"
        yield Problem(what, f"{trained.override('attention', VARLEN)}, or {parallel}=1")
    if too_old and exchanges_parts(chosen):
        yield Problem(f"{key}={chosen} needs GPUs of the Ampere generation or newer", f"{key}=sdpa")
    shipped = (VARLEN, FLASH, "sdpa", "eager", "flex_attention")
    if chosen not in shipped and "flash" not in chosen and "/" not in chosen:
        # A warning only, because a program can register more with transformers.
        yield warning(f"{key}={chosen} is not an attention that transformers brings", one_of(chosen, shipped))
