"""The dashboard's URLs."""

from __future__ import annotations

import asyncio
import functools
import html
import json
import re
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from manyfit.core.errors import ManyfitError, UsageKeyError
from manyfit.dashboard import pages
from manyfit.dashboard.guard import App, Door, Guard
from manyfit.dashboard.projects import DrawnPages, ListedProject, Projects
from manyfit.report.drawing import scripts_of_vega
from manyfit.report.snapshot import Snapshot
from manyfit.store import requests
from manyfit.store.layout import ProjectLayout
from manyfit.store.reading import token_of

_POLL_SECONDS = 0.15  # between two looks at a project's token, while a page waits for news
_WAIT_SECONDS = 10.0  # a page is answered "nothing new" after so long, and asks again
_AT_ONCE = 3_000  # epochs of a project that is drawn at once; a larger one is announced first
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"<>]*)">')


class Dashboard:
    """Answers requests about projects.

    Args:
        projects: that are shown.
        door: how it is reached.
        is_closing: whether the server is about to end: nobody waits for news then.
    """

    def __init__(self, projects: Projects, door: Door, is_closing: Callable[[], bool] = lambda: False) -> None:
        self._projects, self._door, self._is_closing = projects, door, is_closing
        self._drawn = DrawnPages(functools.partial(pages.report_of, door, projects))

    def app(self) -> App:
        """The whole as ASGI, with its guard."""
        routes = [
            Route("/", self.home),
            Route("/p/{key}/", self.project),
            Route("/p/{key}/live", self.live),
            Route("/p/{key}/state", self.state),
            Route("/p/{key}/trial/{trial}", self.trial),
            Route("/p/{key}/requests", self.ask, methods=["POST"]),
            Route("/compare", self.compare),
            Route("/static/{name}", self.static),
        ]
        inner = Starlette(routes=routes, exception_handlers={ManyfitError: self._unreadable, 404: self._nothing})
        return Guard(inner, self._door)  # type: ignore[arg-type]  # Starlette's own names of the same types

    # Pages: each on a thread of the server's pool, since they read disks ---------------------------------------------

    def home(self, request: HttpRequest) -> Response:
        """All projects, or the one that there is."""
        found = self._projects.places()
        if self._projects.is_single and found:
            return Response(status_code=307, headers={"location": f"/p/{found[0].key}/"})
        return HTMLResponse(pages.list_of(self._door, self._projects))

    def project(self, request: HttpRequest) -> Response:
        """The report of a project."""
        place = self._place(request)
        if place is None:
            return self._no_project()
        token, snapshot = self._projects.snapshot(place)
        num_epochs = sum(len(run.logs) for trial in snapshot.trials for run in trial.runs)
        if num_epochs > _AT_ONCE and not self._drawn.is_ready(place.key) and "whole" not in request.query_params:
            # So much takes seconds to draw: what matters most is there at once, and the browser asks for the rest.
            found = pages.message(
                self._door, place.name, *pages.words.verdict(snapshot), "The charts are being drawn …"
            )
            return HTMLResponse(found, headers={"refresh": "0; url=?whole=1"})
        return self._report(place, token, snapshot)

    def _report(self, place: ListedProject, token: str, snapshot: Snapshot) -> Response:
        scripts_of_vega()  # made once: no part of what it costs to draw a page
        token, page = self._drawn.page(place, token, snapshot)
        # The report says itself which scripts it runs, by their hashes; the header says the same and no more.
        found = _POLICY.search(page)
        assert found is not None  # our bug: every report has one
        policy = f"{html.unescape(found[1])}; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"content-security-policy": policy, "etag": f'"{token}"'})

    async def live(self, request: HttpRequest) -> Response:
        """The report as soon as it differs from the one that a page has; 204 where it does not for a while."""
        place = await run_in_threadpool(self._place, request)
        if place is None:
            return self._no_project()
        seen, waited = request.query_params.get("seen", ""), 0.0
        while waited < _WAIT_SECONDS and not self._is_closing():
            if token_of(place.folder) != seen and not self._drawn.rests(place.key):
                token, snapshot = await run_in_threadpool(self._projects.snapshot, place)
                if token != seen:
                    return await run_in_threadpool(self._report, place, token, snapshot)
            await asyncio.sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS
        return Response(status_code=204)

    def state(self, request: HttpRequest) -> Response:
        """Whether somebody works on a project, and what became of requests."""
        place = self._place(request)
        if place is None:
            return self._no_project()
        _, snapshot = self._projects.snapshot(place)
        return JSONResponse(pages.facts_of(snapshot, list(ProjectLayout(place.folder).waiting_requests())))

    def trial(self, request: HttpRequest) -> Response:
        """One trial."""
        place = self._place(request)
        if place is None:
            return self._no_project()
        _, snapshot = self._projects.snapshot(place)
        try:
            trial = snapshot.trial(request.path_params["trial"])
        except UsageKeyError:
            return self._no_project("There is no such trial.")
        above = pages.bar(self._door, self._projects, place, snapshot, trial.trial_id)
        return HTMLResponse(pages.trial_page(self._door, above, place, snapshot, trial))

    def compare(self, request: HttpRequest) -> Response:
        """Two projects side by side."""
        found = [self._projects.place(request.query_params.get(name, "")) for name in ("a", "b")]
        sides = [(place, self._projects.snapshot(place)[1]) for place in found if place is not None]
        if len(sides) < 2:
            return self._no_project("Choose two projects of the list.")
        return HTMLResponse(pages.compare_page(self._door, sides))

    def static(self, request: HttpRequest) -> Response:
        """A file of ours."""
        name = request.path_params["name"]
        if name not in pages.STATIC:
            return self._no_project("There is no such file.")
        return Response(pages.static(name), media_type=pages.STATIC[name][1])

    # Requests ------------------------------------------------------------------------------------------------------

    async def ask(self, request: HttpRequest) -> Response:
        """Leaves a request for the search of a project."""
        try:
            asked = json.loads(await request.body())
            what, details = asked["what"], dict(asked["details"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return PlainTextResponse('Allowed: {"what": ..., "details": {...}}.', status_code=400)
        place = await run_in_threadpool(self._place, request)
        if place is None:
            return self._no_project()
        return await run_in_threadpool(self._left, place, what, details)

    def _left(self, place: ListedProject, what: Any, details: dict[str, Any]) -> Response:
        _, snapshot = self._projects.snapshot(place)
        runs = pages.kind_of(snapshot) == "runs"
        if what in (requests.STOP, requests.STOP_TRIAL, requests.RAISE) and not runs:
            return PlainTextResponse("Nothing runs on this project, so there is nothing to change.", status_code=409)
        if what == requests.STOP and snapshot.activity is not None:
            # This run of it: one that dies before it reads this is over, and the next one is meant to run.
            details = {"pid": snapshot.activity.pid, "since": snapshot.activity.since}
        try:
            requests.ask(place.folder, str(what), **details)
        except ManyfitError as error:
            return PlainTextResponse(pages.plain(error, 400), status_code=400)
        step = "" if snapshot.activity is None else snapshot.activity.what.replace("a ", "the ", 1)
        when = f"{step} takes it within a second, or after its epoch" if runs else "the next search takes it"
        return PlainTextResponse(f"Asked: {when}.", status_code=202)

    # What is not there -----------------------------------------------------------------------------------------------

    def _place(self, request: HttpRequest) -> ListedProject | None:
        return self._projects.place(request.path_params["key"])

    def _no_project(self, why: str = "There is no such project here.") -> Response:
        return HTMLResponse(pages.message(self._door, "Manyfit", why), status_code=404)

    def _nothing(self, request: HttpRequest, error: Exception) -> Response:
        return self._no_project("There is no such page.")

    def _unreadable(self, request: HttpRequest, error: Exception) -> Response:
        sentences = "This project cannot be read.", pages.plain(error, 600)
        return HTMLResponse(pages.message(self._door, "Manyfit", *sentences), status_code=422)
