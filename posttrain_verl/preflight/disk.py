"""Disk for the checkpoints that the schedule will write: how much, and whether it is free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.plan import job as jobs
from posttrain_verl.plan.known import shape_of
from posttrain_verl.preflight import machine, model, schedule
from posttrain_verl.problem import Problem, warning

GB = 10**9
FLOOR = 1 * GB  # logs, rollouts, Ray's own files
MOMENTS = 2  # of AdamW, each a number a trained parameter, in the dtype of the weights
EXPORTED = 2  # bytes a parameter of an export in bf16, the dtype of the models of conf/base_model


@dataclass(frozen=True)
class Part:
    """What a checkpoint holds of one model, in bytes. `kept` checkpoints of it stay, None for all of them."""

    name: str
    weights: int
    optimizer: int
    folder: int
    kept: int | None
    replicas: int = 1

    @property
    def bytes(self) -> int:
        return self.weights + self.optimizer + self.folder

    def count(self, saved: int | None) -> int:
        """Checkpoints on the disk at once at most: those that are kept, and one that is being written.

        VeRL 0.9.1 deletes the oldest before it writes where two or more are kept, so one fewer in a run that was never
        resumed. Of a number that is not known only the first checkpoint counts.
        """
        most = [number for number in (saved, self.kept + 1 if self.kept else None) if number is not None]
        return min(most, default=1)


def check(composed: Composed) -> list[Problem]:
    """A problem if a disk has less room than the run will need on it without a resume, a warning if less than it may need
    with one. Checkpoints may go to another disk than all the rest."""
    machine.require_here(composed)
    home, place = _existing(composed.run_dir()), _existing(_place(composed))
    together = home.stat().st_dev == place.stat().st_dev
    found = list(_room(composed, place, FLOOR if together else 0))
    if not together and (free := shutil.disk_usage(home).free) < FLOOR:
        what = f"{home} has {size(free)} free, and a run writes about {size(FLOOR)} beside its checkpoints"
        found.append(Problem(what, "free some, or set posttrain.runs_dir to a larger disk"))
    return found


def _room(composed: Composed, place: Path, floor: int) -> Iterator[Problem]:
    free, checkpoints = shutil.disk_usage(place).free, needs(composed) - FLOOR
    if free >= checkpoints + floor:
        return
    what = f"{place} has {size(free)} free, and the run needs about {size(checkpoints + floor)}; {words(composed)}"
    fewer = _keep_fewer(composed)
    remedy = f"free some, or set posttrain.runs_dir to a larger disk{f', or keep fewer checkpoints: {fewer}' if fewer else ''}"
    only_after_a_resume = free >= checkpoints + floor - _spared(composed)
    yield warning(what, remedy) if only_after_a_resume else Problem(what, remedy)


def _spared(composed: Composed) -> int:
    """Bytes that a run without a resume does not need: with two or more kept VeRL 0.9.1 deletes the oldest before it writes."""
    saved = saves(composed)
    return sum(part.bytes for part in parts(composed) if part.kept and 1 < part.kept < part.count(saved))


def needs(composed: Composed) -> int:
    """Bytes that the run needs at most: checkpoints, and a floor for everything else.

    Parameters are counted from the weights, or from what is known of the model's shape; else only the floor is known.
    """
    saved = saves(composed)
    return FLOOR + sum(part.bytes * part.count(saved) for part in parts(composed))


def words(composed: Composed) -> str:
    """What `check` prints: the bytes, how many checkpoints they are, and what an export adds."""
    found, saved = parts(composed), saves(composed)
    if saved == 0:
        return "disk: the run saves no checkpoint"
    if not any(part.bytes for part in found):
        return f"disk: not planned (the size of {composed.model} is not known here)"
    total = sum(part.bytes * part.count(saved) for part in found)
    counts = [f"{_counted(part, saved)} of {_contents(part)}" for part in found]
    if len(found) > 1:
        counts = [f"{part.name} {count}" for part, count in zip(found, counts, strict=True)]
    exported = _parameters(composed.model, composed) * EXPORTED
    return f"disk: {size(total)} for checkpoints ({', '.join(counts)}); an export in bf16 adds {size(exported)}"


def size(number: float) -> str:
    """Bytes as a reader takes them in."""
    units = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (0, "bytes"))
    unit, name = next(pair for pair in units if number >= pair[0])
    return f"{number / (unit or 1):.3g} {name}"


def _counted(part: Part, saved: int | None) -> str:
    if part.kept and (saved is None or saved > part.kept):
        return f"{part.kept} kept + 1 being written"
    return "all kept, how many is not known yet, one" if saved is None else f"{saved} kept"


def _contents(part: Part) -> str:
    named = {"weights": part.weights, "optimizer": part.optimizer, "hf_model": part.folder}
    copies = f", written by each of {part.replicas} replicas (fsdp_size)" if part.replicas > 1 else ""
    return f"{size(part.bytes)}: {' + '.join(f'{name} {size(held)}' for name, held in named.items() if held)}{copies}"


def parts(composed: Composed) -> list[Part]:
    """What one checkpoint of the launch holds: the trained model, and with PPO its critic."""
    return list(_parts(composed))


def _parts(composed: Composed) -> Iterator[Part]:
    config, trainer = composed.verl, composed.verl.trainer
    if composed.stage == "sft":
        kept = _number(trainer.get("max_ckpt_to_keep"))
        yield _part("model", composed.models[0], composed, config, config.model, config.get("engine"), kept)
        return
    actor = config.actor_rollout_ref.actor
    kept = _number(trainer.get("max_actor_ckpt_to_keep"))
    yield _part("actor", composed.models[0], composed, actor, config.actor_rollout_ref.model,
                actor.get("fsdp_config"), kept)  # fmt: skip
    if jobs.uses_critic(config):
        critic, kept = config.critic, _number(trainer.get("max_critic_ckpt_to_keep"))
        yield _part("critic", composed.models[-1], composed, critic, critic.model, critic.get("fsdp"), kept)


def _part(name: str, path: str, composed: Composed, owner: DictConfig, trained: DictConfig,
          engine: DictConfig | None, kept: int | None) -> Part:  # fmt: skip
    """Every rank writes its shard of weights and moments; the replicas of HSDP (`fsdp_size`) write them again.

    Engines other than FSDP (`engine` None) are counted as if they were FSDP of all devices in fp32.
    """
    engine = engine if engine is not None else OmegaConf.create()
    contents, item = owner.checkpoint.save_contents, jobs.BYTES.get(str(engine.get("model_dtype")), 4)
    whole, learning = _parameters(path, composed, head=name != "critic"), 0
    if rank := trained.get("lora_rank") or 0:
        shape = shape_of(path, composed.posttrain.base_model)
        learning = shape.lora_parameters(rank) if shape else 0
        whole = learning if owner.checkpoint.get("save_lora_only") else whole + learning
    replicas = _replicas(composed, engine)
    copies = replicas * item
    return Part(name, kept=kept, replicas=replicas,
                weights=whole * copies * ("model" in contents),
                optimizer=(learning if rank else whole) * MOMENTS * copies * ("optimizer" in contents),
                folder=whole * item * ("hf_model" in contents))  # fmt: skip


def _replicas(composed: Composed, engine: DictConfig) -> int:
    trainer, shards = composed.verl.trainer, engine.get("fsdp_size")
    gpus = trainer.nnodes * trainer.n_gpus_per_node
    return gpus // shards if isinstance(shards, int) and 0 < shards < gpus else 1


def _parameters(path: str, composed: Composed, head: bool = True) -> int:
    """Parameters of a model; without its `head` one value a token takes the place of the output layer."""
    folder = model.folder_of(path)
    counted = model.parameters(folder) if folder is not None else None
    shape = shape_of(path if folder is None else str(folder), composed.posttrain.base_model)
    whole = counted or (shape.parameters if shape else 0)
    if head or shape is None:
        return whole
    return whole - (0 if shape.tied else shape.vocab * shape.hidden) + shape.hidden


def saves(composed: Composed) -> int | None:
    """How often the run saves; None where the number of steps is not known. The last step is always saved."""
    steps, frequency = schedule.steps(composed), composed.verl.trainer.save_freq
    if frequency == "after_each_epoch":
        return _number(composed.verl.trainer.total_epochs)
    if not isinstance(frequency, int) or frequency < 1:
        return 1 if composed.stage == "sft" else 0
    return -(-steps // frequency) if steps else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _keep_fewer(composed: Composed) -> str:
    """Of SFT one is enough; of RL the one before is needed where a run is killed before it has logged the step it saved."""
    if composed.stage == "sft":
        return "trainer.max_ckpt_to_keep=1" if parts(composed)[0].kept != 1 else ""
    many = [part.name for part in parts(composed) if part.kept is None or part.kept > 2]
    return " ".join(f"trainer.max_{name}_ckpt_to_keep=2" for name in many)


def _place(composed: Composed) -> Path:
    """Where checkpoints go: the run folder, if the user named no other place."""
    if "trainer.default_local_dir" in composed.user_keys:
        return Path(composed.verl.trainer.default_local_dir).expanduser()
    return composed.run_dir()


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
