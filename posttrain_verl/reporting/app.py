"""The web application of `serve`: the list of runs, and a page for each that follows its run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from posttrain_verl.reporting import page, subjects
from posttrain_verl.reporting.files import Record
from posttrain_verl.reporting.page import Page

# A page of another site may not read runs through a name that it points at this machine (DNS rebinding).
HOSTS = ["127.0.0.1", "localhost"]
WATCHED = ("*.json", "*.jsonl", "config.yaml", "eval/*.json", "rollouts/*.jsonl", "validation/*.jsonl")


class Gallery:
    """The runs below one folder. Of each page the newest build is kept, until a file of its run changes."""

    def __init__(self, home: Path):
        self.home = home
        self._reader = subjects.Reader()
        self._built: dict[Path, tuple[str, Page]] = {}
        self._rows: dict[Path, tuple[object, Record]] = {}
        self._turn = asyncio.Lock()  # pages share the reader

    def folders(self) -> list[Path]:
        """The runs, sweeps and pipelines, newest first."""
        found = {path for depth in ("*/*", "pipeline/*/*", "multirun/*") for path in self.home.glob(depth)}
        real = [path for path in found if path.is_dir() and subjects.is_subject(path)]
        return sorted(real, key=_started, reverse=True)

    def rows(self) -> list[Record]:
        """What the list says of each. A run of which no file changed is not read again."""
        for folder in (found := self.folders()):
            stamp = tuple(_stamp(folder / name) for name in subjects.MARKS)
            if self._rows.get(folder, (None, {}))[0] != stamp:
                self._rows[folder] = stamp, self._row(folder)
        return [self._rows[folder][1] for folder in found]

    def _row(self, folder: Path) -> Record:
        one = self._reader.read(folder)
        kind, state = subjects.kind(folder)
        return {
            "link": folder.relative_to(self.home).as_posix(), "kind": kind, "state": state or one.state,
            "steps": _steps(one.last_step, one.planned_steps), "seconds": one.seconds, "results": one.results(),
            "started": datetime.fromtimestamp(_started(folder)).strftime("%Y-%m-%d %H:%M"),
        }  # fmt: skip

    async def page(self, link: str) -> tuple[str, Page]:
        """The version and the page of a run by its path below `home`."""
        folder = self._folder(link)
        async with self._turn:
            version = await asyncio.to_thread(fingerprint, folder)
            known = self._built.get(folder)
            if known is None or known[0] != version:
                known = version, await asyncio.to_thread(self._reader.page, folder)
                self._built[folder] = known
        return known

    def block(self, link: str, name: str) -> bytes | None:
        """The index or a chunk of the page that was built last."""
        _, built = self._built.get(self._folder(link), ("", None))
        if built is None:
            return None
        if name == "index":
            return built.rollouts.index()
        return next((chunk.block for chunk in built.rollouts.chunks if chunk.name == name), None)

    def _folder(self, link: str) -> Path:
        folder = self.home / link
        if ".." in Path(link).parts or not subjects.is_subject(folder):
            raise HTTPException(404, f"there is no run {link}")
        return folder


def fingerprint(folder: Path) -> str:
    """Changes with every file that the page is made of. Of a sweep or pipeline the runs count, too."""
    facts = sha256()
    for home in (folder, *subjects.members(folder)):
        for path in sorted(path for pattern in WATCHED for path in home.glob(pattern)):
            known = path.stat()
            facts.update(f"{path} {known.st_mtime_ns} {known.st_size}\n".encode())
    return f'"{facts.hexdigest()[:16]}"'


def application(home: Path) -> Starlette:
    """The application for the runs below `home`."""
    gallery = Gallery(home)

    async def front(request: Request) -> Response:
        rows = await asyncio.to_thread(gallery.rows)
        return _html(page.served("runs.html", f"Runs in {home}", _tag(rows), runs=rows, home=str(home)))

    async def front_sections(request: Request) -> Response:
        rows = await asyncio.to_thread(gallery.rows)
        return _fresh(request, _tag(rows), lambda: page.inner("runs.html", runs=rows, home=str(home)))

    async def one(request: Request) -> Response:
        version, built = await gallery.page(request.path_params["link"])
        return _html(page.served("sections.html", built.name, version, page=built))

    async def one_sections(request: Request) -> Response:
        version, built = await gallery.page(request.path_params["link"])
        return _fresh(request, version, lambda: page.inner("sections.html", page=built))

    async def block(request: Request) -> Response:
        found = await asyncio.to_thread(gallery.block, request.path_params["link"], request.path_params["name"])
        if found is None:
            raise HTTPException(404, "the page was built anew since: load it again")
        keep = "no-store" if request.path_params["name"] == "index" else "private, max-age=3600, immutable"
        return Response(found, media_type="application/gzip", headers={"Cache-Control": keep})

    routes = [
        Route("/", front),
        Route("/sections", front_sections),
        Route("/run/{link:path}/sections", one_sections),
        Route("/run/{link:path}/block/{name}", block),
        Route("/run/{link:path}/", one),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def _html(text: str) -> Response:
    return HTMLResponse(text, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


def _fresh(request: Request, version: str, make: Callable[[], str]) -> Response:
    """The text with its version, or 304 where the page has that version already."""
    if request.headers.get("If-None-Match") == version:
        return Response(status_code=304, headers={"ETag": version})
    return HTMLResponse(make(), headers={"ETag": version, "Cache-Control": "no-store"})


def _tag(rows: list[Record]) -> str:
    """The version of the list."""
    return f'"{sha256(repr(rows).encode()).hexdigest()[:16]}"'


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _started(folder: Path) -> float:
    """When a run began: its config is written once. The mark of a sweep or pipeline is the next best."""
    return next(
        ((folder / name).stat().st_mtime for name in ("config.yaml", *subjects.MARKS) if (folder / name).is_file()), 0.0
    )


def _steps(last: int | None, planned: int | None) -> str:
    return "" if last is None else f"{last:,} of {planned:,}" if planned else f"{last:,}"
