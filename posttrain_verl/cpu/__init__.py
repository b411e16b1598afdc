"""The CPU backend: the real VeRL trainers and the real vLLM on a machine without an accelerator.

Nothing here forks VeRL or edits site-packages. `verl_plugin` and `vllm_plugin` are entry points that both packages
load by themselves; they act only in processes where `VERL_PLATFORM=cpu` (see `is_chosen`).
"""

import os


def is_chosen() -> bool:
    """Whether this process was asked to run VeRL on the CPU. `process_variables` sets the variable."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
