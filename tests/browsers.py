"""A dashboard and who asks it, as its own pages do or as nobody should."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from html.parser import HTMLParser

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("vl_convert")

from manyfit.dashboard.app import Dashboard  # noqa: E402
from manyfit.dashboard.guard import Door  # noqa: E402
from manyfit.dashboard.projects import Projects  # noqa: E402
from manyfit.store.layout import ProjectLayout  # noqa: E402
from manyfit.store.requests import read_request  # noqa: E402

MARKUP = "<script>alert(1)</script>"
HOST = "127.0.0.1:8642"


def change(folder, name, value):
    connection = sqlite3.connect(ProjectLayout(folder).database)
    connection.execute("UPDATE project SET value = ? WHERE name = ?", (json.dumps(value), name))
    connection.commit()
    connection.close()


class Browser:
    """Asks a dashboard as its own pages do, unless it is told otherwise."""

    def __init__(self, folder, **door):
        self.door = Door(**{"host": "127.0.0.1", "token": "right", **door})
        self.projects = Projects(folder)
        self.app = Dashboard(self.projects, self.door).app()
        self.keys = {place.name: place.key for place in self.projects.places()}

    def ask(self, method, path, host=HOST, headers=(), **more):
        async def answered():
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.request(method, path, headers=dict(headers), **more)

        return asyncio.run(answered())

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body, *, without=(), host=HOST, **changed):
        headers = {
            "origin": f"http://{HOST}",
            "x-manyfit-token": "right",
            "content-type": "application/json",
            **changed,
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kept = {name: value for name, value in headers.items() if name not in without}
        return self.ask("POST", path, host=host, headers=kept, content=content)

    def request(self, what, **details):
        [key] = self.keys.values()
        return self.post(f"/p/{key}/requests", {"what": what, "details": details})


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.in_script = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.in_script = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        self.text += "" if self.in_script else data


def waiting(folder):
    """Requests that nobody has taken yet."""
    return [read_request(name, path) for name, path in ProjectLayout(folder).waiting_requests().items()]
