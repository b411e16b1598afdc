"""Seconds of each optimizer step of a trainer of TRL; runs in the peer's environment."""

import time

from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Seconds of each optimizer step, with all that belongs to it: generation and reward, or the reference."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.started = time.monotonic()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds.append(time.monotonic() - self.started)
