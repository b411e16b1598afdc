"""The workers that graders share. Each pool starts with the first call that needs it, and ends with this process."""

import atexit
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_pools: dict[Hashable, Any] = {}
_lock = threading.Lock()


def shared_pool(key: Hashable, make: Callable[[], Any]) -> Any:
    """The pool of this process under `key`, made by `make` the first time. Its `close` ends the workers."""
    with _lock:
        if key not in _pools:
            _pools[key] = make()
        return _pools[key]


def close() -> None:
    """End every worker process and thread. The next call starts them again."""
    with _lock:
        while _pools:
            _pools.popitem()[1].close()


def forget_pools() -> None:
    """In a forked child: leave the parent's workers alone, and start its own when it needs them."""
    global _pools, _lock
    _pools, _lock = {}, threading.Lock()


class WaitingThreads(ThreadPoolExecutor):
    """Threads that wait on worker processes. They hold no CPU, and suffice for VeRL's few hundred calls in flight."""

    def __init__(self) -> None:
        super().__init__(max_workers=32, thread_name_prefix="reward")

    def close(self) -> None:
        self.shutdown(wait=False, cancel_futures=True)


atexit.register(close)
os.register_at_fork(after_in_child=forget_pools)
