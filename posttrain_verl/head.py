"""The verb `head`: start a Ray head of this machine, or end it."""

from __future__ import annotations

import sys

from posttrain_verl.clusters import ray_head
from posttrain_verl.run import ray_token
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Head


def run(asked: Head) -> int:
    """The verb without its command line. Raises InputError."""
    if asked.stop:
        return ray_head.stop_head(asked.stop)
    ray_head.clear_dead_heads()
    port = ray_head.choose_port(asked.port)
    ray_token.require_private_token(Head.TITLE)
    return ray_head.start_detached(port, asked.gpus) if asked.detach else ray_head.serve_head(port, asked.gpus)


if __name__ == "__main__":
    sys.exit(command_line.main(Head, run))
