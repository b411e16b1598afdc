"""VeRL's agent loop workers, with one single-turn loop a worker in place of one a rollout.

VeRL 0.9.1 builds an agent loop for every rollout, through `hydra.utils.instantiate`: 8 ms of CPU each, two of the five
seconds in which the demo samples 256 short answers. A single-turn loop keeps nothing of a rollout, so one serves them all.
Loops of other kinds, and traced runs, take VeRL's own way. The hook is `rollout.agent.agent_loop_manager_class`.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

VeRLWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class  # the class below Ray's decorator


class SharedLoopWorker(VeRLWorker):
    """`AgentLoopWorkerTQ` that builds its single-turn loop once."""

    _single_turn: SingleTurnAgentLoop | None = None

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **row: Any,
    ) -> Any:
        if agent_name != "single_turn_agent" or trace:
            return await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, trace=trace, **row)
        output = await self._loop_of_all().run(sampling_params, **row)
        return await self._agent_loop_postprocess(output, trajectory["validate"], **row)

    def _loop_of_all(self) -> SingleTurnAgentLoop:
        if self._single_turn is None:
            self._single_turn = SingleTurnAgentLoop(
                trainer_config=DictConfigWrap(config=self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=DictConfigWrap(self.config.data),
                tools=ToolListWrap(self.tools),
            )
        return self._single_turn


class SharedLoopManager(AgentLoopManagerTQ):
    """`AgentLoopManagerTQ` over `SharedLoopWorker`s."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SharedLoopWorker)
