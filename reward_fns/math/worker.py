"""The process that imports math-verify. Runs in a warm process and its forked children, see `verifier`."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
from functools import lru_cache

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from reward_fns import forkserver

MEMORY_BYTES = 2 << 30
CONFIG = (LatexExtractionConfig(), ExprExtractionConfig())


@lru_cache(maxsize=512)
def parsed_gold(text: str) -> list[object]:
    """A prompt's gold is asked for once per rollout: parse it once."""
    return parse(text, CONFIG, parsing_timeout=None)


def judge(request: dict[str, object]) -> dict[str, object]:
    """{"golds": [text], "answer": text} with math delimiters -> {"equal"}, the verdict of math-verify."""
    gold = [value for text in request["golds"] for value in parsed_gold(text)]  # type: ignore[attr-defined]
    answer = parse(str(request["answer"]), CONFIG, parsing_timeout=None)
    return {"equal": bool(verify(gold, answer, timeout_seconds=None))}


def answer_requests(_kind: bytes, fds: list[int]) -> None:
    """Serve one client, one JSON line per request, until it closes the socket."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with socket.socket(fileno=fds[0]) as channel, channel.makefile("rw") as stream:
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        for line in stream:
            stream.write(json.dumps(judge(json.loads(line))) + "\n")
            stream.flush()


def main(control_fd: int) -> None:
    """Warm up (imports, ANTLR tables, regular expressions), then fork a child per request."""
    logging.disable(logging.WARNING)
    judge({"golds": [r"$\frac{1}{2}$"], "answer": r"$0.5x$"})
    with socket.socket(fileno=control_fd) as control:
        forkserver.serve(control, answer_requests)
