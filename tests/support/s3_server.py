"""An object store on the loopback interface (moto), which may fail, and counts its requests."""

import threading
from contextlib import contextmanager

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "verysecretkey",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # or the client looks for credentials on the network
}
SILENCE = 504


class FaultyStore:
    """A WSGI application before the store; it counts the requests.

    `fault` gets (method, path) of each, and returns None, a status to answer with, (status, body),
    or SILENCE: no answer until the server is released.
    """

    def __init__(self, store):
        self.store = store
        self.fault = lambda method, path: None
        self.requests = []
        self.released = threading.Event()

    def __call__(self, environment, start):
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if fault is SILENCE:
            self.released.wait()
        if fault is not None:
            status, body = fault if isinstance(fault, tuple) else (fault, b"")
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            start(f"{status} Fault", [("Content-Length", str(len(body)))])
            return [body]
        return self.store(environment, start)

    def count(self, method, part=""):
        return sum(each == method and part in path for each, path in self.requests)


def nth(number, answer, method="PUT", part=""):
    """A fault at the first `number` requests of this method whose path has this part."""
    left = [number]

    def fault(own, path):
        if own == method and part in path and left[0]:
            left[0] -= 1
            return answer
        return None

    return fault


@contextmanager
def serve():
    """Serve an empty store on a free port, and lead the AWS client to it; yields the server."""
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *words):
            pass

    application = FaultyStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
            for name, value in {**KEYS, **address}.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            yield application
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        application.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
