"""One vLLM engine that answers questions: the process of a replica, on this machine or in a Ray task.

As a process (`python -m posttrain_verl.evaluate.engine`) it reads its `Work` as one line of JSON, writes one line of JSON
for each answer, and ends when its standard input does. So it never outlives the process that started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.evaluate.result import Answer
from posttrain_verl.verl import vllm_models


@dataclass(frozen=True)
class Work:
    """What one engine has to do: `asked` holds (id, messages, numbers of the samples wanted) of each question.

    `seconds` bounds the time in which questions are started; a question that was started is finished. At most `at_once`
    answers are in the engine at a time.
    """

    model: str
    asked: list[tuple[str, list[dict[str, str]], list[int]]]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    on_cpu: bool = False
    tensor_parallel: int = 1
    at_once: int = 256
    seconds: float | None = None
    chat_template: str | None = None


def generate_answers(work: Work) -> Iterator[Answer]:
    """Answer everything asked; each answer comes when it is finished, in no order. The last line of the log says how fast
    it tokenized and generated."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work.model)
    if work.chat_template is not None:
        tokenizer.chat_template = work.chat_template
    started = time.monotonic()
    prompts = {  # as VeRL's rollouts make them
        name: tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        for name, messages, _ in work.asked
    }
    prepared = time.monotonic() - started
    room = _context_length(work, max(map(len, prompts.values()), default=1))
    engine = _build_engine(work, room)
    began, tokens = time.monotonic(), 0
    for answer in rolling_answers(engine, work, prompts, room):
        tokens += answer.tokens
        yield answer
    facts = {"tokens": tokens, "seconds": round(prepared + time.monotonic() - began, 2)}
    print(f"answered: {json.dumps(facts)}", file=sys.stderr)


def rolling_answers(engine: Any, work: Work, prompts: dict[str, list[int]], room: int) -> Iterator[Answer]:
    """Keep the engine filled until nothing is left or the time is over. `room` is tokens of prompt and answer together."""
    waiting, running = deque(work.asked), 0
    until = time.monotonic() + (float("inf") if work.seconds is None else work.seconds)
    while waiting or running:
        while waiting and running < work.at_once:
            if time.monotonic() > until:
                waiting.clear()
                break
            name, _, samples = waiting.popleft()
            left = min(room - len(prompts[name]), work.max_tokens)
            if left < 1:  # cut off before their first token
                yield from (Answer(name, sample, "", 0, True, len(prompts[name])) for sample in samples)
                continue
            for sample in samples:
                parameters = _sampling_parameters(work, left, name, sample)
                engine.add_request(json.dumps([name, sample]), {"prompt_token_ids": prompts[name]}, parameters)
            running += len(samples)
        for output in engine.step() if running else ():
            if output.finished:
                running -= 1
                # vLLM may add a suffix of its own to the id it was given.
                (name, sample), _ = json.JSONDecoder().raw_decode(output.request_id)
                given = output.outputs[0]
                yield Answer(
                    name, sample, given.text, len(given.token_ids), given.finish_reason == "length", len(prompts[name])
                )


def _context_length(work: Work, longest: int) -> int:
    """Tokens of prompt and answer together: what the longest prompt needs, at most what vLLM can build the model for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(work.model)
    limits = [longest + work.max_tokens, getattr(config, "max_position_embeddings", None)]
    if dual_chunk := getattr(config, vllm_models.DUAL_CHUNK, None):
        limits.append(vllm_models.plain_length(dual_chunk))
    return min(limit for limit in limits if limit)


def _build_engine(work: Work, room: int) -> Any:
    from vllm import EngineArgs, LLMEngine

    common: dict[str, Any] = {
        "model": work.model, "max_model_len": room, "max_num_seqs": work.at_once, "disable_log_stats": True,
        "tensor_parallel_size": work.tensor_parallel,
    }  # fmt: skip
    if work.on_cpu:
        common |= {"dtype": "float32", "enforce_eager": True}
        if work.temperature > 0:
            # Whole prompts: a prompt in pieces turns back the generator of a seeded answer, which vLLM 0.27 can on GPUs only.
            common |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(room, 4096)}
    return LLMEngine.from_engine_args(EngineArgs(**common))


def _sampling_parameters(work: Work, max_tokens: int, name: str, sample: int) -> Any:
    """The sampling of one answer. Each has a seed of its own, which follows from the evaluation's: which answers were
    there already, or how many engines there are, then changes none."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    seed = sample_seed(work.seed, name, sample) if work.temperature > 0 else None
    return SamplingParams(temperature=work.temperature, top_p=work.top_p, max_tokens=max_tokens, seed=seed,
                          output_kind=RequestOutputKind.FINAL_ONLY)  # fmt: skip


def sample_seed(seed: int, name: str, sample: int) -> int:
    """The seed of one answer, 0 to 2**32 - 1."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {sample} {name}".encode(), digest_size=4).digest(), "big")


def main() -> int:
    work = Work(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # vLLM and its libraries print to standard output; the answers get a descriptor of their own.
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as out:
        os.dup2(2, 1)
        for answer in generate_answers(work):
            out.write(json.dumps(asdict(answer)) + "\n")
        out.write("done\n")
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def has_chat_template(model: Path | str) -> bool:
    """Whether a model folder brings a chat template; true for what is not on this disk."""
    folder = Path(model)
    config = folder / "tokenizer_config.json"
    if not folder.is_dir() or (folder / "chat_template.jinja").is_file():
        return True
    return config.is_file() and bool(json.loads(config.read_text()).get("chat_template"))


if __name__ == "__main__":
    sys.exit(main())
