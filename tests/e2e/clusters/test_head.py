"""The page's first job on a head of this machine: each command as it stands there, but for the port, which may be taken."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from posttrain_verl.clusters.ray_head import free_port

PAGE = Path(__file__).resolve().parents[3] / "docs" / "clusters.md"
BLOCK = re.compile(r"## Try it on this machine\n(?:.*\n)+?\n((?:    python .*\n)+)")


@pytest.mark.e2e
@pytest.mark.nightly  # three minutes
@pytest.mark.timeout(1500)
def test_the_commands_of_the_page_word_for_word(tmp_path, monkeypatch):
    port = free_port()
    block = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    commands = [line.split()[1:] for line in block[1].replace("8265", str(port)).splitlines()]
    verbs = ["head", "launch", "status", "stop", "resume", "logs", "head"]
    assert [words[1].removeprefix("posttrain_verl.") for words in commands] == verbs
    # A home that is empty, and a shell in which neither Ray's token nor this Python is known. `ray` is asked in no other way.
    for name in [name for name in os.environ if name.startswith(("RAY_", "POSTTRAIN_"))]:
        monkeypatch.delenv(name)
    environ = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home/.cache"), "COLUMNS": "200",
                            "PATH": os.defpath}  # fmt: skip
    (tmp_path / "home").mkdir()

    def said(words: list[str], code: int = 0) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environ, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=900, check=False)  # fmt: skip
        assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    head, launch, status, stop, resume, logs, end = commands
    try:
        assert f"http://127.0.0.1:{port}" in said(head)
        assert (tmp_path / "home/.ray/auth_token").stat().st_mode & 0o077 == 0, "others can read the token"
        assert f"port={port} is in use" in said(head, code=2) and f"head stop={port}" in said(head, code=2)
        listening = {
            (one.laddr.ip, one.pid) for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN
        }
        own = {pid for _, pid in listening if pid and f"HOME={tmp_path}/home".encode() in environ_of(pid)}
        assert len(own) >= 4 and {ip.removeprefix("::ffff:") for ip, pid in listening if pid in own} == {"127.0.0.1"}
        said(launch)
        until = time.monotonic() + 600
        while "step" not in (seen := said(status)) and time.monotonic() < until:
            assert re.search(r"^(queued|preparing|starting|loading|training|waiting|update)", seen.splitlines()[2]), (
                seen
            )
            time.sleep(1)
        assert re.search(r"^step \d+ of 160$", seen, re.MULTILINE) and ": loss " in seen, seen
        assert re.search(r"interrupted: stopped by \S+@\S+ with `stop`; resume it: ", said(stop))
        assert "stopped by" in said(["-m", "posttrain_verl.list"])
        said(resume)
        assert "step 20: " in said(logs)
        assert "done" in said(status)
    finally:
        said(end)
    assert not [pid for pid in psutil.pids() if f"HOME={tmp_path}/home".encode() in environ_of(pid)], (
        "processes are left"
    )


def environ_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended
        return b""
