"""Every model of conf/base_model, built by vLLM on the `meta` device: its classes take the config, and no weight is made.

Run by the environment of requirements/gpu.lock: build_models.py OUT.json SCRATCH [NAME ...]
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import fake_gpus

fake_gpus.install()

import model_folders  # noqa: E402
import torch  # noqa: E402
from vllm import EngineArgs  # noqa: E402
from vllm.config import VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.distributed import destroy_model_parallel, init_distributed_environment, initialize_model_parallel  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402

LENGTH = 4096  # of a sequence: every model here was made for as much


def build(folder: Path) -> dict:
    """The class that vLLM takes for the model, and its parameters."""
    arguments = EngineArgs(str(folder), max_model_len=LENGTH, dtype="bfloat16", skip_tokenizer_init=True)
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        initialize_model_parallel()  # for each model: only one of experts makes groups of experts
        try:
            with torch.device("meta"):
                model = initialize_model(config)
        finally:
            destroy_model_parallel()
    return {"built": True, "class": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}


def attempt(path: str, scratch: Path) -> dict:
    started = time.monotonic()
    try:
        found = build(model_folders.folder_of(path, scratch))
    except Exception as error:
        found = {"built": False, "error": f"{type(error).__name__}: {error}"}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    (out, scratch), wanted = map(Path, sys.argv[1:3]), sys.argv[3:]
    with tempfile.TemporaryDirectory() as meeting, set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{meeting}/store", 0, "gloo")
        models = {name: node for name, node in model_folders.published().items() if name in wanted or not wanted}
        out.write_text(json.dumps({name: attempt(node["path"], scratch) for name, node in models.items()}, indent=2))


if __name__ == "__main__":
    main()
