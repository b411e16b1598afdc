"""The trainers of each stage, VeRL's own or made of its parts, as the process of a run calls them on the Ray that is up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from omegaconf import DictConfig

from posttrain_verl.verl import checkpoints, progress
from posttrain_verl.verl.stage import Stage


def train_rl(config: DictConfig) -> None:
    """VeRL's `main_ppo`; its own `main` is a Hydra entry point."""
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))

    class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
        """VeRL's actor that holds the RL trainer, which also says what it does at the moment."""

        def run(self, config: DictConfig) -> None:
            progress.follow_this_thread()
            super().run(config)

    run_ppo(config, task_runner_class=ray.remote(TaskRunner))


def train_sft(config: DictConfig, stage: Stage) -> None:
    """VeRL's Ray SFT trainer; its own `run_sft` would start a second Ray."""
    from posttrain_verl.verl.sft_trainer import OrderedTrainer

    _train_on_rows(OrderedTrainer, config, stage)


def train_dpo(config: DictConfig, stage: Stage) -> None:
    """Our trainer of pairs, which is made of the parts of VeRL's SFT trainer."""
    from posttrain_verl.verl.dpo_trainer import PairTrainer

    _train_on_rows(partial(PairTrainer, settings=stage.settings(config)), config, stage)


def _train_on_rows(trainer_type: Callable[[DictConfig], Any], config: DictConfig, stage: Stage) -> None:
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    trainer = trainer_type(config)
    step = trainer.resume_global_step
    if step and step % trainer.steps_per_epoch == 0:
        # It resumes where an epoch ended, and must train the next one. VeRL 0.9.1 restores the data loader at the end of its
        # data: the run would end, or continue an epoch later, having trained nothing (verl-project/verl#7401).
        trainer._build_dataloader()
        trainer.ckpt_handler.train_dataloader = trainer.train_dataloader
    checkpoints.prune_after_saves(trainer.ckpt_handler, config, stage)
    trainer.fit()
