"""VeRL's replay buffer, looked into more often.

VeRL 0.9.1 polls for finished rollouts every 2.0 s, a default that no key of its config reaches, so the generation time of a
step is rounded up to a multiple of it. The hook is `trainer.v1.sampler.custom_sampler`. VeRL hands a custom sampler no
group filter: recipes with `algorithm.filter_groups` (DAPO) keep VeRL's own.
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 0.1


class PromptReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` of the synchronous trainer with a poll every `POLL_SECONDS`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **(kwargs | {"poll_interval": POLL_SECONDS}))
