"""One single-turn loop serves every rollout of a worker; loops of other kinds go VeRL's way."""

import asyncio
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # imports VeRL and vLLM


class Loop:
    built = 0

    def __init__(self, **_):
        Loop.built += 1

    async def run(self, sampling_params, **row):
        return sampling_params["temperature"], row["uid"]


def worker(module):
    one = module.SharedLoopWorker.__new__(module.SharedLoopWorker)
    one.config = SimpleNamespace(data=None)
    for name in ("llm_client", "tokenizer", "processor", "hf_model_type", "dataset_cls", "tools"):
        setattr(one, name, None)

    async def postprocess(output, validate, **row):
        return output, validate

    one._agent_loop_postprocess = postprocess
    return one


def test_one_loop_a_worker_and_verl_for_the_rest(monkeypatch):
    from posttrain_verl.verl import agent_loops

    async def verls(self, sampling_params, trajectory, *, agent_name, trace=True, **row):
        return agent_name, trace

    monkeypatch.setattr(agent_loops, "SingleTurnAgentLoop", Loop)
    monkeypatch.setattr(agent_loops.VeRLWorker, "_run_agent_loop", verls)
    one = worker(agent_loops)

    def rollout(name, trace=False, uid=0):
        return asyncio.run(
            one._run_agent_loop({"temperature": 1.0}, {"validate": False}, agent_name=name, trace=trace, uid=uid)
        )

    assert [rollout("single_turn_agent", uid=uid) for uid in (4, 5)] == [((1.0, 4), False), ((1.0, 5), False)]
    assert Loop.built == 1
    assert rollout("tool_agent") == ("tool_agent", False)
    assert rollout("single_turn_agent", trace=True) == ("single_turn_agent", True)
