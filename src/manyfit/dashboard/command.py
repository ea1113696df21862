"""`manyfit dashboard`: serves the pages, opens a browser, and ends with Ctrl+C."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import click

from manyfit.core.errors import UsageError, explain

_MOST_CONNECTIONS = 64
_FIRST_PORT, _NUM_PORTS = 8642, 20


@click.command("dashboard")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the first free one from 8642; 0: any.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one lets other machines in, by a token.")
@click.option("--read-only", is_flag=True, help="Nothing can be asked of a search.")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def dashboard(folder: Path, port: int | None, host: str, read_only: bool, no_open: bool) -> None:
    """Shows the project or the projects in FOLDER in a browser, while they are searched.

    It listens on this machine only, unless --host says otherwise.
    """
    click.echo(f"Reading {folder} ...")
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            folder,
            port=port,
            host=host,
            is_read_only=read_only,
            said=lambda url: _is_up(url, is_opened=not no_open),
        )
    click.echo("The dashboard has ended; searches go on.")


def _is_up(url: str, *, is_opened: bool) -> None:
    click.echo(f"Manyfit's dashboard: {url}\nCtrl+C ends it.")
    if is_opened:
        import webbrowser  # which all other commands do without

        # Of a thread: where there is no browser, some systems wait for one.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def serve(
    folder: Path,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    is_read_only: bool = False,
    said: Callable[[str], None] = click.echo,
) -> None:
    """Serves a dashboard until a signal ends it.

    Args:
        folder: of one project or of many.
        port: None: the first free one; 0: any.
        host: an address or a name of this machine.
        is_read_only: whether nothing can be asked of a search.
        said: is told the URL once it is answered.

    Raises:
        UsageError: the packages of the extra are missing, or the port is taken.
        ProjectError: there is no such folder.
    """
    try:
        import jinja2  # noqa: F401  # of the extra, like the others
        import uvicorn

        # They need the extra, and load what the rest of the command line does without.
        from manyfit.dashboard.app import Dashboard
        from manyfit.dashboard.guard import Door
        from manyfit.dashboard.projects import Projects
        from manyfit.report.drawing import scripts_of_vega
    except ImportError as error:
        got = f"no {error.name}"
        raise UsageError(
            explain("manyfit dashboard", got, "the packages of its extra", "Type pip install 'manyfit[dashboard]'.")
        ) from None
    door = Door(host, secrets.token_urlsafe(24), is_read_only)
    projects = Projects(folder)
    listening = _listening(host, port)
    # No header of a proxy is believed, and no line is logged for each second of each page.
    config = uvicorn.Config(
        Dashboard(projects, door, lambda: server.should_exit).app(),
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16_384,
    )
    server = uvicorn.Server(config)
    # Bundled while the browser starts: the first page is there at once then.
    threading.Thread(target=scripts_of_vega, daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    with_token = "" if door.is_on_loopback else f"?token={door.token}"
    said(f"http://{shown}:{listening.getsockname()[1]}/{with_token}")
    with contextlib.closing(listening):
        server.run(sockets=[listening])


def _listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageError: the port is taken, or the host is none of this machine.
    """
    ports = [port] if port is not None else [*range(_FIRST_PORT, _FIRST_PORT + _NUM_PORTS), 0]
    reason: OSError | None = None
    for each in ports:
        try:
            family = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, each), family=family)
        except OSError as error:
            reason = error
    got = f"{host}:{ports[0]}, where nobody can listen ({reason.strerror or reason})" if reason else host
    allowed = "a free port, and an address or a name of this machine"
    raise UsageError(explain("manyfit dashboard", got, allowed, "Type --port 0 for any, or leave --host out."))
