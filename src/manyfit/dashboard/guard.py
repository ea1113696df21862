"""Who may see a dashboard and ask things of a search: the door that every request comes through.

A dashboard has no users and no passwords; what it shows is this user's own. The dangers are other pages in the same
browser, and other machines:

- *another page sends a request* (cross-site): what changes anything has to name the dashboard's own origin, and to bear
  a token that only its pages know, in a header that no form can set;
- *another page pretends to be this host* (DNS rebinding: a name of the attacker's that resolves to 127.0.0.1): only
  names of this machine are answered;
- *another machine asks*, where `--host` lets it: then everything needs the token, which the printed URL has;
- *texts of projects*: they are escaped, and a policy lets the browser run only the scripts that are ours;
- *too much*: bodies are short, and so many requests per second are enough for a person.
"""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

MOST_BODY_BYTES = 20_000
_MOST_POSTS, _POST_SECONDS = 30, 10.0  # at once, and in how many seconds they come back
_COOKIE = "manyfit_token"
TOKEN_HEADER = "x-manyfit-token"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Of pages that are not the report's: scripts and styles come from files of ours only, and none stands in the page."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Door:
    """How a dashboard is reached, and what for.

    Attributes:
        host: it listens on: "127.0.0.1", or another address or name of this machine.
        token: that requests have to bear.
        is_read_only: whether nothing can be asked of a search.
    """

    host: str
    token: str
    is_read_only: bool = False

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in _LOOPBACK_NAMES or (_is_address(self.host) and ipaddress.ip_address(self.host).is_loopback)

    def answers(self, name: str) -> bool:
        """Whether a host's name in a request is one of ours."""
        if name in _LOOPBACK_NAMES:
            return True
        # An address cannot be made to resolve elsewhere; a name that nobody has typed here can.
        return not self.is_on_loopback and (name == self.host or _is_address(name))

    def knows(self, token: str | None) -> bool:
        """Whether a token is the right one; takes as long for wrong ones."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        why: in words.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Guard:
    """Lets through what may come through (ASGI).

    Args:
        app: that answers.
        door: see `Door`.
        now: a time in seconds that never goes back.
    """

    def __init__(self, app: App, door: Door, *, now: Callable[[], float] = time.monotonic) -> None:
        self._app, self._door, self._now = app, door, now
        self._left, self._left_at = float(_MOST_POSTS), now()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a dashboard has no sockets
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message.setdefault("headers", [])}
                added = {"content-security-policy": POLICY + "; frame-ancestors 'none'", **_HEADERS}
                message["headers"] += [
                    (name.encode(), value.encode()) for name, value in added.items() if name.encode() not in known
                ]
            await send(message)

        try:
            headers = _headers_of(scope)
            if (elsewhere := self._check(scope, headers)) is not None:
                await _answer(guarded, 303, "", [("location", elsewhere), ("set-cookie", self._cookie())])
                return
            body = await _body(receive) if scope["method"] == "POST" else b""
        except Refused as refused:
            await _answer(guarded, refused.status, f"{refused.why}\n")
            return

        async def received() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, received if scope["method"] == "POST" else receive, guarded)

    def _check(self, scope: Message, headers: dict[str, str]) -> str | None:
        """Refuses what may not come through; answers a URL without the token, where one came with it.

        Raises:
            Refused: it may not.
        """
        host = headers.get("host", "")
        if not self._door.answers(_name_of(host)):
            raise Refused(421, "This host has another name.")
        site = headers.get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise Refused(405, "GET and POST only.")
        if scope["method"] == "POST":
            self._check_post(headers, host, site)
        elif site in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "Other pages may link to this one, and not read it.")
        if self._door.is_on_loopback:
            return None
        query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["method"] != "POST" and self._door.knows(query.get("token", [""])[0]):
            # Quoted, and with one slash: else a path such as //elsewhere.org would lead there.
            return "/" + urllib.parse.quote(str(scope["path"]).lstrip("/"))
        if not self._door.knows(_cookie_of(headers)):
            raise Refused(401, "Open the URL that the dashboard has printed: it bears a token.")
        return None

    def _check_post(self, headers: dict[str, str], host: str, site: str) -> None:
        if self._door.is_read_only:
            raise Refused(403, "This dashboard only reads (--read-only).")
        if headers.get("origin") != f"http://{host}" or site not in ("none", "same-origin"):
            raise Refused(403, "Another page has sent this.")
        if not self._door.knows(headers.get(TOKEN_HEADER)):
            raise Refused(403, "The token is missing or an old one: load the page anew.")
        if not headers.get("content-type", "").startswith("application/json"):
            raise Refused(415, "JSON only.")
        if int(headers.get("content-length", "0") or 0) > MOST_BODY_BYTES:
            raise Refused(413, f"More than {MOST_BODY_BYTES} bytes.")
        now = self._now()
        self._left = min(_MOST_POSTS, self._left + (now - self._left_at) * _MOST_POSTS / _POST_SECONDS)
        self._left_at = now
        if self._left < 1:
            raise Refused(429, "Too many requests: wait a few seconds.")
        self._left -= 1

    def _cookie(self) -> str:
        # No script reads it, and no other site's request bears it.
        return f"{_COOKIE}={self._door.token}; HttpOnly; SameSite=Strict; Path=/"


def _headers_of(scope: Message) -> dict[str, str]:
    """Headers by name. One that is there twice, or of odd letters, is a trick: proxies and servers take another one.

    Raises:
        Refused: there is such a one.
    """
    found: dict[str, str] = {}
    for raw_name, raw in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "content-length", TOKEN_HEADER):
            raise Refused(400, f"{name} twice.")
        found[name] = raw.decode("latin-1")
    length = found.get("content-length", "0")
    if not re.fullmatch(r"\d{1,12}", length):
        raise Refused(400, "A length that is none.")
    return found


def _name_of(host: str) -> str:
    """The name in a `Host` header, without its port.

    Example:

    >>> _name_of("localhost:8000"), _name_of("[::1]:80"), _name_of("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d{1,5})?|([^:\[\]/@\s]+)(?::\d{1,5})?", host)
    return "" if found is None else (found[1] or found[2]).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie_of(headers: dict[str, str]) -> str | None:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == _COOKIE:
            return value
    return None


async def _body(receive: Receive) -> bytes:
    """All of a request's body.

    Raises:
        Refused: it is too long, whatever its header said.
    """
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request broke off.")
        body += message.get("body", b"")
        if len(body) > MOST_BODY_BYTES:
            raise Refused(413, f"More than {MOST_BODY_BYTES} bytes.")
        more = message.get("more_body", False)
    return body


async def _answer(send: Send, status: int, text: str, headers: list[tuple[str, str]] | None = None) -> None:
    told = [("content-type", "text/plain; charset=utf-8"), *(headers or [])]
    encoded = [(name.encode(), value.encode()) for name, value in told]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
