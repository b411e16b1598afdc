"""Log-probabilities of given tokens from vLLM: `python -m posttrain_verl.exporting.vllm_logprobs ASKED.json ANSWERED.json`."""

import json
import sys
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(sys.argv[1]).read_text())
    longest = max(map(len, asked["texts"]))
    engine = LLM(asked["model"], dtype=asked["dtype"], enforce_eager=True, max_model_len=longest + 1)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in asked["texts"]],
                              SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0))  # fmt: skip
    found = []
    for ids, output in zip(asked["texts"], outputs, strict=True):
        found += [position[token].logprob for token, position in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
