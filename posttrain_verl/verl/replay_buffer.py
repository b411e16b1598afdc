"""VeRL's replay buffer, looked into more often, with the parts of the grades and the failed answers among the metrics.

VeRL 0.9.1 polls for finished rollouts every 2.0 s, a default that no key of its config reaches, so the generation time of a
step is rounded up to a multiple of it; and of a grade it logs the score alone. The hook for both is
`trainer.v1.sampler.custom_sampler`. VeRL hands a custom sampler no group filter (DAPO's dynamic sampling), so conf/rl.yaml
passes it as `sampler_kwargs`.

An answer whose reward or agent loop raised never arrives here. VeRL fills the batch up with copies that it does not train on, and
takes its means over the answers that are there, so that nothing in its metrics shows that some are missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from posttrain_verl.verl import progress
from posttrain_verl.verl.metrics import FAILED_ANSWERS, FAILED_SHARE

POLL_SECONDS = 0.1
COUNT_SECONDS = 2.0  # the watch looks as often


def build_replay_buffer(**kwargs: Any) -> ReplayBuffer:
    """The buffer of the trainer's mode. The asynchronous one alone knows how old a rollout is, and replaces stale ones."""
    filtering = group_filter(kwargs["sampler_kwargs"])
    buffer = PromptReplayBuffer if kwargs["trainer_mode"] == "sync" else PromptReplayBufferAsync
    return buffer(**(kwargs | filtering | {"poll_interval": POLL_SECONDS}))


class PromptReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` of the synchronous trainer: polls every `POLL_SECONDS`, adds `reward/<part>/mean` to a step's metrics.

    It tells the watch how many rollouts there are: of a long generation that is the only sign that it moves on.
    """

    _counted = 0.0

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        if partition_id == "train" and batch.keys:
            grades, answers = rollout_grades(batch), (self.sampler_kwargs or {}).get("answers_per_prompt")
            evicted = int(metrics.get("training/rollout_failure/evicted_samples", 0))
            failed = bool(
                evicted or self.failure_keys[partition_id]
            )  # else a row asked for a number of answers of its own
            wanted = (batch_size + evicted) * (answers or 0) if failed else len(_answers_of(batch.keys))
            metrics = {**metrics, **part_means(grades), **failures(batch.keys, grades, wanted)}
        return batch, metrics

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._counted = time.monotonic()
            progress.write_rollout_count(sum(map(len, self.partitions.values())))


class PromptReplayBufferAsync(PromptReplayBuffer, ReplayBufferAsync):
    """The same for the asynchronous trainers: `PromptReplayBuffer` calls `ReplayBufferAsync` in the order of the bases."""


def group_filter(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ReplayBuffer` that say which groups are dropped and replaced, from our `sampler_kwargs`.

    As VeRL 0.9.1 derives them for its own buffer (`PPOTrainer._build_replay_buffer`); a custom one gets none.
    """
    groups, failed = given.get("filter_groups") or {}, bool(given.get("refill_failed_groups"))
    filters, batch = bool(groups.get("enable")), given.get("train_batch_size")
    return {
        "filter_groups_metric": str(groups["metric"]) if filters else None,
        "max_inflight_gen_batches": groups["max_inflight_gen_batches"] if filters else 1,
        "sync_refill_failed_groups": failed,
        "train_batch_size": batch,
        "gen_batch_size": 1 if filters or failed else batch,
    }


def rollout_grades(batch: KVBatchMeta) -> list[Mapping[str, Any]]:
    """What the reward function returned for each rollout of a sampled batch, but for the score."""
    fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    extras = [getattr(extra, "data", extra) for extra in fields["extra_fields"]]
    return [extra.get("reward_extra_info", {}) for extra in extras]


def failures(keys: Iterable[str], grades: Iterable[Mapping[str, Any]], wanted: int) -> dict[str, float]:
    """How many of the `wanted` answers of a step have no reward of their own, as `FAILED_SHARE` and, above 0, `FAILED_ANSWERS`.

    One of `keys` is `<prompt>_<answer>_<turn>`. Groups that were replaced count as a whole. The reward manager `rate_limited`
    gives an answer 0 whose reward raised or took too long, and notes `error` or `timeout` in a grade without `score`. Nothing
    is returned where it is not known how many answers there should be.
    """
    if not wanted:
        return {}
    caught = sum("score" not in grade and ("error" in grade or "timeout" in grade) for grade in grades)
    failed = max(0, wanted - len(_answers_of(keys))) + caught
    return {FAILED_SHARE: failed / wanted, **({FAILED_ANSWERS: failed} if failed else {})}


def _answers_of(keys: Iterable[str]) -> set[str]:
    return {key.rsplit("_", 1)[0] for key in keys}


def part_means(grades: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each numeric part over the grades that have it, as `reward/<part>/mean`.

    A reward that returned a plain number has no parts, and VeRL calls that number `acc`.
    """
    parts: dict[str, list[float]] = {}
    for grade in (grade for grade in grades if "score" in grade):
        for key, value in grade.items():
            if isinstance(value, int | float):
                parts.setdefault(key, []).append(float(value))
    return {f"reward/{key}/mean": fmean(values) for key, values in parts.items()}
