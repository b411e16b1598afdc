"""VeRL's vLLM server of each RL recipe, up to the point where vLLM has taken every argument: the engine is not built.

Run by the environment of requirements/gpu.lock: launch_servers.py OUT.json SCRATCH RECIPE.yaml ...
"""

import asyncio
import io
import json
import re
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import fake_gpus

fake_gpus.install()

import model_folders  # noqa: E402
import ray  # noqa: E402
from verl.workers.rollout.replica import RolloutMode  # noqa: E402
from verl.workers.rollout.vllm_rollout import vllm_async_server  # noqa: E402

from posttrain_verl.compose import compose  # noqa: E402
from posttrain_verl.verl import vllm_models  # noqa: E402
from posttrain_verl.verl.composed import Composed  # noqa: E402

RUN = re.compile(r"^# Run: +python -m posttrain_verl\.launch (.+)$", re.M)
UNNAMED = "hardware=1x80gb"  # a recipe whose command names no hardware, on a machine with one GPU


class Accepted(Exception):
    """Raised in the engine's place, with the config that vLLM made of the arguments."""


def engine(vllm_config, **_):
    raise Accepted(vllm_config)


def composed_of(recipe: Path) -> Composed:
    """The recipe as its own command composes it."""
    words = RUN.search(recipe.read_text()).group(1).split("base_model=<")[0].split()
    return compose(words if any(word.startswith("hardware=") for word in words) else [*words, UNNAMED])


def launch(composed: Composed, scratch: Path) -> dict:
    """What vLLM says to the first replica of the launch."""
    composed.verl.actor_rollout_ref.model.path = str(model_folders.folder_of(composed.model, scratch))
    config = composed.for_run(scratch / "run")
    rollout = config.actor_rollout_ref.rollout
    replica, per_node = rollout.tensor_model_parallel_size * rollout.data_parallel_size, config.trainer.n_gpus_per_node
    server = vllm_async_server.vLLMHttpServer(
        config=rollout, model_config=config.actor_rollout_ref.model, rollout_mode=RolloutMode.HYBRID,
        workers=[None] * replica, replica_rank=0, node_rank=0, gpus_per_node=min(replica, per_node),
        nnodes=max(1, replica // per_node), cuda_visible_devices=",".join(map(str, range(min(replica, per_node)))),
    )  # fmt: skip
    try:
        asyncio.run(server.launch_server())
    except Accepted as taken:
        (vllm,) = taken.args
        return {"accepted": True, "model": composed.model, "max_model_len": vllm.model_config.max_model_len,
                "tensor_parallel": vllm.parallel_config.tensor_parallel_size,
                "dual_chunk": hasattr(vllm.model_config.hf_config, vllm_models.DUAL_CHUNK)}  # fmt: skip
    raise AssertionError("the server asked for no engine")


def attempt(recipe: Path, scratch: Path) -> dict:
    started, said = time.monotonic(), io.StringIO()
    try:
        with redirect_stderr(said):
            found = launch(composed_of(recipe), scratch)
    except SystemExit:  # argparse has said why
        found = {"accepted": False, "error": said.getvalue().strip().splitlines()[-1]}
    except Exception as error:
        found = {"accepted": False, "error": f"{type(error).__name__}: {error}"}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    out, scratch, *recipes = map(Path, sys.argv[1:])
    # No cluster is needed to read arguments.
    ray.get_runtime_context = lambda: SimpleNamespace(get_job_id=lambda: "01000000")
    ray.util.get_node_ip_address = lambda: "127.0.0.1"
    vllm_async_server.AsyncLLM.from_vllm_config = engine
    out.write_text(json.dumps({recipe.stem: attempt(recipe, scratch) for recipe in recipes}, indent=2))


if __name__ == "__main__":
    main()
