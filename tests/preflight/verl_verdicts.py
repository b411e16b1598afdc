"""What VeRL itself says of configs, in a process of its own: `python verl_verdicts.py CONFIGS VERDICTS`.

CONFIGS is a pickle of `({name: (stage, valid config)}, [(name, changes)])`; VERDICTS becomes a JSON list with the reason
why VeRL refuses each changed config, or "". It does what VeRL does before a worker loads a model: main_ppo's
validate_config, the dataclasses that trainers and workers make of their nodes (but for the model's, which reads the
disk), the registries that they look names up in, and what they assert. Beyond that each value must fit the annotation of
its dataclass, as OmegaConf reads it: VeRL makes the dataclass without looking, and breaks on the value later.
"""

import dataclasses
import json
import pickle
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from mutations import apply, quick_interpolations  # beside this file
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.tracking import Tracking
from verl.workers.rollout.base import get_rollout_class

NODES = {
    "rl": ("actor_rollout_ref.rollout", "actor_rollout_ref.rollout.checkpoint_engine", "algorithm",
           "trainer.v1.separate_async.hybrid_rollout"),
    "sft": ("engine", "optim", "checkpoint", "profiler"),
}  # fmt: skip

# Declared as Union[str, float]; OmegaConf lets a whole number be a float only outside a union.
WHOLE_THRESHOLD = re.compile(r'("rollout_[ir]s_threshold": -?\d+)(?=[,}])')


def refuse(stage: str, config: DictConfig) -> None:
    """Raise what VeRL raises."""
    OmegaConf.resolve(config)
    for node in _with_dataclass(OmegaConf.to_container(config)):
        _fit(json.dumps(node, default=str))
    for backend in [config.trainer.logger] if isinstance(config.trainer.logger, str) else config.trainer.logger:
        assert backend in (*Tracking.supported_backend, "tracking"), f"{backend} is not supported"
    (rl if stage == "rl" else sft)(config)
    for path in NODES[stage]:
        omega_conf_to_dataclass(OmegaConf.select(config, path))


def rl(config: DictConfig) -> None:
    """main_ppo, the v1 trainer and ActorRolloutRefWorker.init_model."""
    config.critic.model = {}  # HFModelConfig reads the model from the disk
    validate_config(config, need_reference_policy(config), need_critic(config))
    get_trainer_cls(config.trainer.v1.trainer_mode)
    core_algos.get_adv_estimator_fn(config.algorithm.adv_estimator)
    core_algos.get_policy_loss_fn(config.actor_rollout_ref.actor.policy_loss.loss_mode)
    core_algos.get_kl_controller(config.algorithm.kl_ctrl)
    if config.reward.reward_manager.source == "register":
        get_reward_manager_cls(config.reward.reward_manager.name)
    actor, rollout, ref = (config.actor_rollout_ref[part] for part in ("actor", "rollout", "ref"))
    get_rollout_class(rollout.name, rollout.mode)
    assert rollout.log_prob_use_dynamic_bsz == actor.use_dynamic_bsz
    size = "max_token_len_per_gpu" if actor.use_dynamic_bsz else "micro_batch_size_per_gpu"
    assert rollout[f"log_prob_{size}"] is not None and actor[f"ppo_{size}"] is not None
    if need_reference_policy(config):
        reference(ref, actor)
    if config.distillation.enabled:
        omega_conf_to_dataclass(config.distillation)


def reference(ref: DictConfig, actor: DictConfig) -> None:
    """The worker makes an actor's config of the reference model's."""
    ref.ppo_mini_batch_size = actor.ppo_mini_batch_size
    ref.use_dynamic_bsz = ref.pop("log_prob_use_dynamic_bsz", False)
    for size in ("micro_batch_size", "micro_batch_size_per_gpu", "max_token_len_per_gpu"):
        ref[f"ppo_{size}"] = ref.pop(f"log_prob_{size}", None)
    omega_conf_to_dataclass(ref)


def sft(config: DictConfig) -> None:
    """SFTTrainer, and the collation of its rows."""
    interval = config.trainer.profile_interval
    assert len(interval) == 2 and interval[1] >= interval[0]
    assert interval[0] >= 0 or interval[1] < 0
    assert config.data.truncation in ["error", "left", "right"]
    assert config.data.pad_mode in ["right", "no_padding"]


def _with_dataclass(node: Any) -> Iterator[dict[str, Any]]:
    """What lies at and below `node` and has a dataclass, each without what has one below it."""
    below = node.values() if isinstance(node, dict) else ()
    for each in below:
        yield from _with_dataclass(each)
    if isinstance(node, dict) and "_target_" in node:
        yield {key: value for key, value in node.items() if not (isinstance(value, dict) and "_target_" in value)}


@cache
def _schema(target: str) -> DictConfig | None:
    """The dataclass as OmegaConf reads it; none where an annotation is beyond it, or no object can be made.

    RewardManagerConfig calls a __post_init__ that its base has not: AttributeError.
    """
    known = get_class(target)
    try:
        return OmegaConf.structured(known) if dataclasses.is_dataclass(known) else None
    except (OmegaConfBaseException, AttributeError):
        return None


@cache
def _fit(text: str) -> None:
    """Raise ValidationError for a value that is not of its annotation; null passes, VeRL's own yaml has it anywhere.

    The node comes as JSON, for the cache: five hundred configs share most of theirs.
    """
    node = json.loads(WHOLE_THRESHOLD.sub(r"\1.0", text))
    if (schema := _schema(node["_target_"])) is not None:
        OmegaConf.merge(schema, {k: v for k, v in node.items() if k in schema and v is not None and v != "???"})


def verdict(stage: str, config: DictConfig) -> str:
    try:
        refuse(stage, config)
    except Exception as error:  # whatever VeRL raises is its verdict
        cause = error.__cause__ or error  # Hydra names the class only
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    return ""


def main() -> None:
    valid, wrong = pickle.loads(Path(sys.argv[1]).read_bytes())
    with quick_interpolations():
        verdicts = [verdict(valid[name][0], apply(valid[name][1], changes)) for name, changes in wrong]
    Path(sys.argv[2]).write_text(json.dumps(verdicts))


if __name__ == "__main__":
    main()
