"""Which variables of this shell a job of a Ray cluster gets: settings of its libraries, and what the user names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from posttrain_verl.compose import Composed
from posttrain_verl.run.environment import OF_ONE_PLACE, SETTINGS

# A laptop that may not ask the hub says nothing of the cluster, which fetches the model.
_OF_THIS_MACHINE = {*OF_ONE_PLACE, "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "VLLM_PORT"}
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|(?:^|_)KEY(?:_|$)")


@dataclass
class Shell:
    """The variables that a job gets, and those with the same prefixes that it does not, with the reason."""

    sent: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What to say of them: names, and no value."""
        lines = [f"the job gets {', '.join(sorted(self.sent))} of this shell"] if self.sent else []
        if self.kept:
            named = ", ".join(f"{name} ({why})" for name, why in sorted(self.kept.items()))
            lines.append(f"it does not get {named}; posttrain.cluster.forward=[NAME] sends one nonetheless")
        return lines


def of_shell(composed: Composed, environ: Mapping[str, str] = os.environ) -> Shell:
    """Settings by their prefix, unless they are a secret or speak of this machine alone; and all that `forward` names."""
    cluster, shell = composed.posttrain.cluster, Shell()
    for name, value in environ.items():
        if name in cluster.forward:
            shell.sent[name] = value
        elif name.startswith(SETTINGS):
            reason = _kept(name, value, list(cluster.shared))
            (shell.kept if reason else shell.sent)[name] = reason or value
    return shell


def _kept(name: str, value: str, shared: list[str]) -> str:
    """Why a setting stays here; empty where the job gets it. Whoever has the cluster's token can read what a job gets."""
    if _SECRET.search(name):
        return "a secret"
    if name in _OF_THIS_MACHINE:
        return "of this machine"
    if value.startswith(("/", "~")) and not any(Path(value).is_relative_to(folder) for folder in shared):
        return "a path of this machine"
    return ""
