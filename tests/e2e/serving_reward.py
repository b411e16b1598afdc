"""A reward that opens a port of its own, as one with a server of its own does."""

import os
import socket
from functools import cache
from typing import Any


@cache
def serve() -> socket.socket:
    return socket.create_server(("127.0.0.1", int(os.environ["POSTTRAIN_TEST_PORT"])))


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    serve()
    text = solution_str.encode()
    return {"score": sum(text) / (256 * max(1, len(text)))}
