"""The process that imports math-verify. Runs in a warm process and its forked children, see `verifier`."""

import gc
import json
import logging
import os
import resource
import socket
from functools import lru_cache

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from reward_fns import forkserver

# Parsed once in the warm process: ANTLR learns a construct at its first sight, at 20 to 100 ms each, and every child
# inherits what was learnt.
WARM_UP = (
    (r"$\frac{1}{2}+\sqrt{3}x$", r"\boxed{\frac12 + x\sqrt{3}}"),
    (r"$(1,2)$", r"\boxed{\left( 1, \frac{4}{2} \right)}"),
    (r"$[0,1)\cup(2,\infty)$", r"\boxed{(2,\infty) \cup [0, 1)}"),
    (r"$\{1,2\}$", r"\boxed{\{2,-1,0.5\}}"),
    (r"$1,2$", r"$1$ and $3$"),
    (r"$x\in[-2,7]$", r"\boxed{-2 \le x \le 7}"),
    (r"$x=5$", r"\boxed{2x+y>3}"),
    (r"$\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}$", r"\boxed{\begin{bmatrix}1 & \frac{1}{2} \\ x & 4\end{bmatrix}}"),
    (r"$\sin^2 x + \cos(2x) - \tan x$", r"\boxed{\ln 2 + \log_2 8 + e^{x}}"),
    (r"$\binom{5}{2} + 3! - |x|$", r"\boxed{\pi r^2 \cdot 2 \times 3 \pm 1}"),
    (r"$\text{even}$", r"\boxed{\text{odd}}"),
    (r"$50\%$", r"\boxed{5 \text{ cm}^2 + 3i}"),
)
MEMORY_BYTES = 2 << 30
CONFIG = (LatexExtractionConfig(), ExprExtractionConfig())


@lru_cache(maxsize=512)
def parsed_gold(text: str) -> list[object]:
    """A prompt's gold is asked for once per rollout: parse it once."""
    return parse(text, CONFIG, parsing_timeout=None)


def judge_request(request: dict[str, object]) -> dict[str, object]:
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
            stream.write(json.dumps(judge_request(json.loads(line))) + "\n")
            stream.flush()


def main(control_fd: int) -> None:
    """Warm up (imports, ANTLR tables, regular expressions), then fork a child per request."""
    logging.disable(logging.WARNING)
    for gold, answer in WARM_UP:
        judge_request({"golds": [gold], "answer": answer})
    gc.freeze()  # children touch, and so copy, fewer pages
    with socket.socket(fileno=control_fd) as control:
        forkserver.serve_forks(control, answer_requests)
