"""Attacks on a dashboard, each of which comes to nothing."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from browsers import HOST, MARKUP, Browser, Tags, waiting

from manyfit.dashboard.guard import Door
from manyfit.store.layout import ProjectLayout


def test_another_sites_page_cannot_ask_for_anything(running):
    browser = Browser(running)
    path, body = f"/p/{browser.keys['run']}/requests", {"what": "stop", "details": {}}
    assert browser.post(path, body, origin="http://evil.example").status_code == 403
    assert browser.post(path, body, origin="null").status_code == 403
    assert browser.post(path, body, without=["origin"]).status_code == 403
    assert browser.post(path, body, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert browser.post(path, body, origin="http://127.0.0.1:9999").status_code == 403  # another port is another origin
    # A form of another site can send neither the header of the token nor JSON.
    assert browser.post(path, body, without=["x-manyfit-token"]).status_code == 403
    assert browser.post(path, body, **{"x-manyfit-token": "wrong"}).status_code == 403
    assert browser.post(path, body, **{"content-type": "text/plain"}).status_code == 415
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert browser.ask(method, path).status_code == 405
    assert not waiting(running)
    answer = browser.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert browser.get(path.removesuffix("requests"), headers={"sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7"])
def test_a_name_that_resolves_to_this_machine_is_not_answered(browser, host):
    assert browser.get("/", host=host).status_code == 421
    assert browser.post("/p/x/requests", {}, host=host, origin=f"http://{host}").status_code == 421


def test_own_names_are_answered(browser):
    for host in ("localhost:8642", "127.0.0.1", "[::1]:8642", "LOCALHOST"):
        assert browser.get("/", host=host).status_code == 200


def bare(browser, path, host, query, *headers):
    """Asks as no client library would; answers status and headers."""
    answered = []

    async def send(message):
        answered.append(message)

    headers = [(b"host", host.encode()), *headers]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
    asyncio.run(browser.app(scope, None, send))
    return {"status": answered[0]["status"], "headers": dict(answered[0]["headers"])}


def test_a_host_that_is_named_twice_is_refused(browser):
    assert browser.ask("GET", "/", headers=[]).status_code == 200
    assert bare(browser, "/", HOST, b"", (b"host", b"evil.example"))["status"] == 400


def test_markup_of_projects_is_text_everywhere(browser):
    odd = next(name for name in browser.keys if "script" in name)
    key = browser.keys[odd]
    both = f"/compare?a={key}&b={browser.keys['one']}"
    for path in ("/", f"/p/{key}/", f"/p/{key}/trial/0", f"/p/{key}/trial/3", both, f"/p/{key}/live?seen=x"):
        page = Tags(browser.get(path).text)
        assert "alert(1)" in page.text, path
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert len(scripts) == (1 if "/trial" in path or path in ("/", both) else len(scripts)) and scripts
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes), path
        assert not any(tag == "b" for tag, _ in page.tags)
    assert MARKUP not in browser.get(f"/p/{key}/").text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/%2e%2e/app.py",
        "/static/..%252fapp.py",
        "/static/report.html",
        "/p/../../etc/",
        "/p/..%2f..%2fsecret/",
        "/p/%2e%2e/",
        "/p/secret/",
        "/p/link/",
        "/p/one/",
        "/p/%00/",
        "/p/{one}/trial/..%2f..%2fx",
        "/p/{one}/../../manyfit.sqlite",
        "/compare?a=../secret&b=link",
    ],
)
def test_no_path_leads_out(browser, path):
    answer = browser.get(path.format(one=browser.keys["one"]))
    assert answer.status_code == 404 and "root:" not in answer.text and "secret" not in answer.text


def test_links_out_of_the_folder_are_no_projects(browser, made):
    assert not {"link", "file"} & set(browser.keys)
    # One that appears later, in place of a known database, is not read either.
    moved = made.parent / "moved"
    shutil.copytree(made / "one", moved / "p")
    late = Browser(moved)
    database = ProjectLayout(moved / "p").database
    database.unlink()
    database.symlink_to(ProjectLayout(made / "two").database)
    assert late.get(f"/p/{late.keys['p']}/").status_code == 422


def test_bodies_are_short(running):
    browser = Browser(running)
    path = f"/p/{browser.keys['run']}/requests"
    assert browser.post(path, b"x" * 20_001).status_code == 413
    assert browser.post(path, b"x", **{"content-length": "999999999999"}).status_code == 413

    async def endless():  # whatever its header says
        for _ in range(100):
            yield b"x" * 1000

    headers = {"origin": f"http://{HOST}", "x-manyfit-token": "right", "content-type": "application/json"}
    assert browser.ask("POST", path, headers=headers, content=endless()).status_code == 413


def test_so_many_requests_are_enough(running, monkeypatch):
    browser = Browser(running)
    monkeypatch.setattr(browser.app, "_left_at", 0.0)
    monkeypatch.setattr(browser.app, "_now", iter([0.0] * 40 + [100.0] * 5).__next__)
    codes = [browser.request("note", trial_id="1", text="odd").status_code for _ in range(41)]
    assert codes == [202] * 30 + [429] * 10 + [202]


def test_off_loopback_everything_needs_the_token(made):
    browser, host = Browser(made, host="0.0.0.0"), "192.168.1.5:8642"
    for path in ("/", "/static/dashboard.js", f"/p/{browser.keys['one']}/state"):
        assert browser.get(path, host=host).status_code == 401
    assert browser.get("/?token=wrong", host=host).status_code == 401
    let_in = browser.get("/?token=right", host=host)
    assert let_in.status_code == 303 and let_in.headers["location"] == "/"
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    with_cookie = {"cookie": cookie.split(";")[0]}
    assert browser.get("/", host=host, headers=with_cookie).status_code == 200
    assert browser.get("/", host="evil.example", headers=with_cookie).status_code == 421
    [(_, status), (_, headers)] = [*bare(browser, "//evil.example/\n", host, b"token=right").items()]
    assert (status, headers[b"location"]) == (303, b"/evil.example/%0A")
    path = f"/p/{browser.keys['one']}/requests"
    answer = browser.post(path, {"what": "stop", "details": {}}, host=host, origin=f"http://{host}")
    assert answer.status_code == 401


def test_read_only_takes_no_requests_and_shows_no_buttons(running):
    browser = Browser(running, is_read_only=True)
    assert browser.request("stop").status_code == 403 and not waiting(running)
    assert "data-ask" not in "".join(str(tag) for tag in Tags(browser.get(f"/p/{browser.keys['run']}/").text).tags)


def test_every_answer_bears_the_headers(browser):
    for path in ("/", "/static/dashboard.js", "/nix", f"/p/{browser.keys['one']}/", f"/p/{browser.keys['corrupt']}/"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "is_on_loopback"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("pc", False)],
)
def test_which_hosts_are_this_machine_alone(host, is_on_loopback):
    assert Door(host, "t").is_on_loopback is is_on_loopback
