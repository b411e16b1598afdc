"""Ray's token: who may talk to a cluster. On by default; without it nothing listens beyond the loopback."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from omegaconf import OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.problem import Problem

MAKE_TOKEN = (
    "make one with `ray get-auth-token --generate` on the head, and give this shell the same: RAY_AUTH_TOKEN_PATH=FILE"
)


def is_loopback(host: str) -> bool:
    """Whether only processes of the same machine reach `host`, a name or an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def has_token() -> bool:
    """Whether Ray will find a token, in the order in which it looks (ray 2.60: variable, named file, file of the home)."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named or os.path.expanduser("~/.ray/auth_token")).is_file()


def is_on() -> bool:
    """Token authentication is on unless the environment turns it off."""
    return os.environ.get("RAY_AUTH_MODE", "token") == "token"


def missing_token(host: str) -> list[Problem]:
    """Why a Ray at `host` may not be started or asked: it is reachable from elsewhere, and has no token."""
    if is_on():
        return [] if has_token() else [Problem(f"there is no token for the Ray at {host}", MAKE_TOKEN)]
    if is_loopback(host):
        return []
    what = f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} lets everyone who reaches {host} run programs there"
    return [Problem(what, "unset it; " + MAKE_TOKEN)]


def check(composed: Composed) -> list[Problem]:
    """A Ray that this launch would start on an address other than the loopback must have a token."""
    options = OmegaConf.select(composed.verl, "ray_kwargs.ray_init") or {}
    host = options.get("_node_ip_address")
    if not host or options.get("address") or is_loopback(str(host)):
        return []
    return missing_token(str(host))
