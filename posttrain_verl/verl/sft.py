"""Supervised fine-tuning: VeRL's `sft_trainer_engine` on Ray."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from posttrain_verl.terminal.problem import Problem
from posttrain_verl.verl.row_terms import RowLimit
from posttrain_verl.verl.settings import Setting, SftModel
from posttrain_verl.verl.stage import REHEARSAL_ROWS, Settings, Stage, register

REHEARSED_LENGTH = 256  # tokens of a row at most


class SftSettings(Settings):
    """The settings of supervised fine-tuning."""

    model_types = (SftModel,)
    length_names = ("max_length",)

    max_length = Setting[int]("data.max_length")
    messages_column = Setting[str]("data.messages_key")
    tools_column = Setting[str]("data.tools_key")
    thinking_column = Setting[str]("data.enable_thinking_key")
    image_column = Setting[str | None]("data.image_key")
    video_column = Setting[str | None]("data.video_key")
    ignores_mismatch = Setting[bool]("data.ignore_input_ids_mismatch")

    @property
    def columns(self) -> dict[str, str]:
        return {self.messages_column: "chat"}

    @property
    def side_columns(self) -> dict[str, tuple[str, bool]]:
        """VeRL reads the file by pandas, whose null is neither None nor false."""
        return {self.tools_column: ("list", False), self.thinking_column: ("flag", False)}

    @property
    def media(self) -> dict[str, str]:
        return {self.image_column or "images": "<image>", self.video_column or "videos": "<video>"}

    @property
    def row_limit(self) -> RowLimit:
        return RowLimit(self.key("max_length"), self.max_length, self.truncation == "error",
                        "cut, and do not teach to stop", f"{self.override('truncation', 'right')} to cut them")  # fmt: skip

    @property
    def mismatch_override(self) -> str | None:
        """VeRL renders each turn alone, and refuses a row whose turns do not add up to the conversation."""
        return None if self.ignores_mismatch else self.override("ignores_mismatch", True)

    def frequency_problems(self) -> Iterator[Problem]:
        for name in ("save_every", "validate_every"):
            if getattr(self, name) == 0:
                what = f"{self.override(name)}: VeRL's SFT trainer divides by it"
                yield Problem(what, f"set {self.override(name, -1)} for never")
        if not self.val_files and self.validate_every not in (-1, 0):
            what = f"{self.override('validate_every')}, but {self.key('val_files')} is null"
            yield Problem(what, f"give {self.key('val_files')}, or {self.override('validate_every', -1)}")
        steps = list(self.profile_interval or [])  # [first, last]; SFTTrainer takes [-1, -1] for never
        are_steps = len(steps) == 2 and all(isinstance(step, int) for step in steps)
        if not are_steps or steps[1] < steps[0] or steps[0] < 0 <= steps[1]:
            what = f"{self.key('profile_interval')}={steps} is not a first and a last step"
            yield Problem(what, "set [-1,-1] for never")

    @property
    def resumes_from_path(self) -> bool:
        return super().resumes_from_path or (self.resume_mode == "auto" and bool(self.resume_path))

    def _batch_numbers(self) -> tuple[str, ...]:
        return self.keys("max_length") + self.model.keys("micro_batch_size", "sequence_parallel")

    def rehearsal_overrides(self, steps: int, reward: str) -> list[str]:
        rows = {"train_batch_size": REHEARSAL_ROWS, "max_length": REHEARSED_LENGTH, "truncation": "right"}
        micro_batches = {"micro_batch_size": REHEARSAL_ROWS // 2, "dynamic_batches": False}
        return [*super().rehearsal_overrides(steps, reward), *self.assign_all(rows),
                *SftModel.assign_all(micro_batches)]  # fmt: skip


class SftStage(Stage):
    """Supervised fine-tuning."""

    name = "sft"
    trunk = "sft_trainer_engine"
    settings_type = SftSettings
    cpus_per_device = 10
    loader_file = "data_0.pt"
    usual_lr = (1e-6, 1e-4)  # in use are 1e-5 to 4e-5 (Tulu 3, open math SFT), and 1e-4 to 2e-4 with LoRA
    usual_lora_lr = (1e-5, 1e-3)
    ends_with_epoch = True  # its loader is exhausted (upstream #7401)

    def train(self, config: DictConfig) -> None:
        from posttrain_verl.verl.trainers import train_sft

        train_sft(config, self)


register(SftStage())
