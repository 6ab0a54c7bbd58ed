"""Requests to a local page server, as its page sends them, and with headers of one's own."""

import http.client
import json
from urllib.parse import urlsplit

from annotate.web.server import TOKEN_HEADER

_OWN = object()  # the token of the address


class Client:
    """Sends requests to the server of an address such as http://127.0.0.1:80/#t=TOKEN."""

    def __init__(self, address):
        parts = urlsplit(address)
        self.host, self.port = parts.hostname, parts.port
        self.token = parts.fragment.removeprefix("t=")

    def request(self, path, record=None, *, token=_OWN, method=None, body=None, **headers):
        """Send a request and return (status, body); a record is POSTed as JSON."""
        token = self.token if token is _OWN else token
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            headers[TOKEN_HEADER] = token
        if record is not None:
            body = json.dumps(record).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            method = method or ("GET" if body is None else "POST")
            connection.request(method, f"/{path}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self, path, record=None, **options):
        """Send a request and return its status."""
        return self.request(path, record, **options)[0]

    def json(self, path, record=None, **options):
        """Send a request that must succeed, and return the JSON of the answer."""
        status, body = self.request(path, record, **options)
        assert status == 200, (status, body)
        return json.loads(body)
