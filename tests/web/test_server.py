"""The local server answers its own page only: 30 hostile requests are refused."""

import http.client
import socket

import pytest
from local_server import Client
from starlette.responses import JSONResponse
from starlette.routing import Route

from annotate.web import server


@pytest.fixture
def written():
    """What hostile requests managed to write."""
    return []


@pytest.fixture
def client(tmp_path, written):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>page</title>")
    script = tmp_path / "page.js"
    script.write_text("export {};")

    async def read(request):
        return JSONResponse({"secret": 7})

    async def write(request):
        written.append(await request.json())
        return JSONResponse({})

    routes = [Route("/read", read), Route("/write", write, methods=["POST"])]
    with server.serve(page, routes, files=[script]) as address:
        yield Client(address)


def test_the_page_reads_and_writes(client, written):
    assert client.status("", token=None) == 200
    assert client.request("static/page.js", token=None) == (200, b"export {};")
    assert client.json("read") == {"secret": 7}
    own_origin = f"http://{client.host}:{client.port}"
    assert client.status("write", {"a": 1}, Origin=own_origin, Sec_Fetch_Site="same-origin") == 200
    assert client.json("read", Host=f"localhost:{client.port}") == {"secret": 7}
    assert written == [{"a": 1}]


def test_every_answer_forbids_other_sources(client):
    connection = http.client.HTTPConnection(client.host, client.port)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    connection.close()


HOSTILE_HEADERS = {
    "no host": {"Host": ""},
    "another host": {"Host": "evil.example"},
    "a name pointed at this machine": {"Host": "evil.example:{port}"},
    "host without port": {"Host": "127.0.0.1"},
    "host of another port": {"Host": "127.0.0.1:1"},
    "host with a suffix": {"Host": "127.0.0.1:{port}.evil.example"},
    "host with user": {"Host": "127.0.0.1:{port}@evil.example"},
    "host as a number": {"Host": "2130706433:{port}"},
    "host 0.0.0.0": {"Host": "0.0.0.0:{port}"},
    "another origin": {"Origin": "http://evil.example"},
    "origin null": {"Origin": "null"},
    "origin of https": {"Origin": "https://127.0.0.1:{port}"},
    "origin of another port": {"Origin": "http://127.0.0.1:1"},
    "origin localhost, host 127.0.0.1": {"Origin": "http://localhost:{port}"},
    "origin with a suffix": {"Origin": "http://127.0.0.1:{port}.evil.example"},
    "a page of another site": {"Sec_Fetch_Site": "cross-site"},
    "a page of a sister site": {"Sec_Fetch_Site": "same-site"},
    "a form": {"Content_Type": "application/x-www-form-urlencoded"},
    "text": {"Content_Type": "text/plain"},
    "a file upload": {"Content_Type": "multipart/form-data; boundary=x"},
    "json with a parameter": {"Content_Type": "application/json; charset=utf-8"},
}


@pytest.mark.parametrize("headers", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_hostile_headers_are_refused(client, written, headers):
    headers = {name: value.format(port=client.port) for name, value in headers.items()}
    status, body = client.request("write", {"a": 1}, **headers)
    assert status in (400, 403, 415) and b"secret" not in body
    assert written == []


@pytest.mark.parametrize("token", [None, "", "guess", "x" * 100_000, "\xe9\xff"])
def test_wrong_tokens_are_refused(client, written, token):
    for request in (("read",), ("write", {"a": 1})):
        try:
            assert client.status(*request, token=token) in (400, 401, 431)
        except ConnectionResetError:  # closed before all of a header that is too long was read
            assert len(token or "") > 10_000
    assert written == []


@pytest.mark.parametrize(
    "path",
    [
        "static/../read",
        "static/%2e%2e/read",
        "static/..%2fserver.py",
        "static//etc/passwd",
        "static/page.html",
        "etc/passwd",
        "read/",
        "//evil.example/read",
    ],
)
def test_path_tricks_read_nothing(client, path):
    status, body = client.request(path, token=None)
    assert status in (307, 400, 401, 404) and b"secret" not in body and b"root:" not in body


def test_bodies_beyond_the_limit_are_refused(client, written):
    large = b'"' + b"x" * server.MAX_BODY_BYTES + b'"'
    kind = {"Content_Type": "application/json"}
    assert client.status("write", body=b"1", Content_Length=str(10**10), **kind) == 413
    assert client.status("write", body=b"1", Content_Length="-1", **kind) in (400, 413)
    assert client.status("write", body=iter([large]), method="POST", **kind) == 413  # chunked
    assert written == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD"])
def test_other_methods_change_nothing(client, written, method):
    assert client.status("write", method=method) in (400, 404, 405)
    assert written == []


def test_it_listens_on_this_machine_only(client, tmp_path):
    listener = socket.create_connection((client.host, client.port))
    assert listener.getpeername()[0] == "127.0.0.1"
    listener.close()
    with pytest.raises(OSError), server.serve(tmp_path / "page.html", port=client.port):
        pass
