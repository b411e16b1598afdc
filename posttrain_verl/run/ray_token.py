"""Ray's token: who reads it may run programs as this user. Ray itself writes a file that every user of the machine can read."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from posttrain_verl.preflight import services
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem

OTHERS = 0o077  # the bits of a mode by which group and others may read, write or enter


def make_token() -> None:
    """Make Ray's token in the home folder where Ray would make one, and keep one that is there from other users.

    Raises:
        OSError: the home folder cannot be written, or the file belongs to another user.
    """
    if not services.is_auth_on() or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    file = services.token_file()
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(file, secrets.token_hex(32))
    close_file(file)


def _write_new(file: Path, text: str) -> None:
    """Write a file of this user alone, whole, unless another process has written it in the meantime."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
            opened.write(text)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def close_file(file: Path) -> None:
    """Take the token's file from group and others. Raises OSError where it belongs to another user."""
    if (mode := file.stat().st_mode) & OTHERS:
        file.chmod(mode & 0o700)
        log.info(f"{file} could be read by other users; only you can read it now")


def require_private_token(title: str) -> None:
    """Make the token, and refuse one that other users can read and that is not ours to close.

    Raises:
        InputError: there is such a token, or none can be made.
    """
    file = services.token_file()
    try:
        make_token()
        if services.is_auth_on() and not os.environ.get("RAY_AUTH_TOKEN") and file.exists():
            close_file(file)
    except OSError as error:
        remedy = "name a token that only you can read: RAY_AUTH_TOKEN_PATH=FILE"
        raise InputError(
            title, [Problem(f"{file} cannot be kept from other users ({error.strerror})", remedy)]
        ) from None
