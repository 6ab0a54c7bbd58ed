"""Objects under a prefix of a bucket: read, written, created where none is, listed, by s3fs.

A request that meets a server error, a lost connection or a time-out is repeated, at most
`_TRIES` times what the AWS client does by itself: five times, or `AWS_MAX_ATTEMPTS`. Credentials,
region and endpoint are those of the AWS client: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`,
`AWS_PROFILE`, a role of the machine; `AWS_DEFAULT_REGION`; `AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from annotate.errors import OutputError, needs

SCHEME = "s3://"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_USER = re.compile(r"//[^/@\s]*@")  # a name and a password in an address
_TRIES, _PAUSE_SECONDS = 3, 1.0
_READ_SECONDS, _CONNECT_SECONDS = 30.0, 10.0  # without an answer
_NO_CREDENTIALS = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REASONS = {
    "NoSuchBucket": "no such bucket",
    "InvalidBucketName": "no such bucket",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_DEFAULT_REGION",
}
_CONFLICT, _EXISTS, _FORBIDDEN, _UNSUPPORTED = 409, 412, 403, 501


def is_url(place: Path | str) -> bool:
    """Return whether a place is an address, not a path.

    Examples:
        >>> is_url("s3://bucket/show"), is_url("show"), is_url(Path("show"))
        (True, False, False)
    """
    return isinstance(place, str) and _ADDRESS.match(place) is not None


class ObjectInfo(NamedTuple):
    """The size of an object in bytes, when it was written, and a text that changes with it."""

    size: int
    written: datetime
    version: str


class BucketFolder:
    """The objects whose names begin with `prefix/` in the bucket of `s3://bucket/prefix`.

    It can be pickled; the connections are those of the process. Every method raises an OutputError
    that says in one line what was wrong.

    Raises:
        OutputError: the address is not one of S3.
        MissingPackage: s3fs is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = self.url[len(SCHEME) :]
        if not self.url.startswith(SCHEME) or not self._root or self._root[0] == "/":
            raise OutputError(f"{url}: expected a folder, or an address s3://BUCKET/PREFIX")
        needs("s3fs")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_system"}

    @cached_property
    def _system(self) -> Any:
        waits = {"read_timeout": _READ_SECONDS, "connect_timeout": _CONNECT_SECONDS}
        system = needs("s3fs").S3FileSystem(use_listings_cache=False, config_kwargs=waits)
        system.retries = 1  # of s3fs, each of which would be several of the client below it
        return system

    def read(self, name: str) -> bytes | None:
        """Read an object; None where there is none."""
        read = partial(self._system.cat_file, self._path(name), max_concurrency=1)  # one request
        data: bytes | None = self._call(name, read, missing_ok=True)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write an object, in place of one that is there."""
        self._call(name, partial(self._system.pipe_file, self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one: then returns False."""
        return self._create(name, partial(self._system.pipe_file, self._path(name), data))

    def upload(self, name: str, file: Path) -> None:
        """Write the bytes of a file as an object, in place of one that is there."""
        self._call(name, partial(self._system.put_file, str(file), self._path(name)))

    def upload_new(self, name: str, file: Path) -> bool:
        """Write the bytes of a file as an object unless there is one: then returns False."""
        return self._create(name, partial(self._system.put_file, str(file), self._path(name)))

    def download(self, name: str, file: Path) -> bool:
        """Write an object into a file; False where there is none."""

        def download() -> bool:
            self._system.get_file(self._path(name), str(file))
            return True

        return bool(self._call(name, download, missing_ok=True))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._call(name, partial(self._system.rm_file, self._path(name)))

    def exists(self, name: str) -> bool:
        """Return whether an object is there."""
        return self.info(name) is not None

    def info(self, name: str) -> ObjectInfo | None:
        """Return the properties of an object; None where there is none."""
        found = self._call(name, self._request("head_object", Key=name), missing_ok=True)
        if found is None:
            return None
        return ObjectInfo(found["ContentLength"], found["LastModified"], found["ETag"])

    def names(self, prefix: str) -> dict[str, ObjectInfo]:
        """List the names of objects that begin with `prefix`: a request for each thousand."""
        find = partial(self._system.find, self._root, prefix=prefix, detail=True)
        start = len(self._root) + 1
        return {
            path[start:]: ObjectInfo(entry["size"], entry["LastModified"], entry["ETag"])
            for path, entry in self._call(prefix, find).items()
        }

    def has_names(self, prefix: str) -> bool:
        """Return whether there is an object whose name begins with `prefix`."""
        answer = self._call(prefix, self._request("list_objects_v2", Prefix=prefix, MaxKeys=1))
        return bool(answer.get("Contents"))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read parts of an object, several at a time, each from a byte up to another."""
        starts, ends = zip(*ranges, strict=True)
        paths = [self._path(name)] * len(ranges)
        read = partial(self._system.cat_ranges, paths, starts, ends, on_error="raise")
        return [bytes(each) for each in self._call(name, read)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _request(self, method: str, **words: Any) -> Callable[[], Any]:
        """Return a request of the AWS client; `Key` or `Prefix` is below the prefix here."""
        bucket, _, above = f"{self._root}/".partition("/")
        for name in words.keys() & {"Key", "Prefix"}:
            words[name] = f"{above}{words[name]}"
        return partial(self._system.call_s3, method, Bucket=bucket, **words)

    def _create(self, name: str, function: Callable[..., Any]) -> bool:
        try:
            self._call(name, partial(function, mode="create"))  # If-None-Match: *
        except FileExistsError:
            return False
        except FileNotFoundError:  # the end of an upload in parts was repeated, or it was aborted
            if not self.exists(name):
                raise OutputError(f"{self.url}/{name}: the upload was aborted: try again") from None
            return False
        return True

    def _call(self, name: str, function: Callable[[], Any], *, missing_ok: bool = False) -> Any:
        """Call a function of s3fs, again after what may pass; None where an object is missing.

        Raises:
            FileExistsError: there is one already.
            FileNotFoundError: an upload is not there.
            OutputError: says what was wrong.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                return function()
            except Exception as error:  # of s3fs, the AWS client, or the HTTP client below it
                status, code = _answer(error)
                if status == _EXISTS:
                    raise FileExistsError from None
                if code == "NoSuchUpload":
                    raise FileNotFoundError from None
                if missing_ok and isinstance(error, FileNotFoundError) and code not in _REASONS:
                    return None
                if not (tries_left and _may_pass(error, status)):
                    reason = _reason(error, status, code)
                    raise OutputError(f"{self.url}/{name}: {reason}") from None
                time.sleep(_PAUSE_SECONDS * (_TRIES - tries_left))


def _answer(error: BaseException) -> tuple[int, str]:
    """Return the status and the code of the answer that an error came from; (0, "") of others."""
    for each in (error, error.__cause__):
        if isinstance(answer := getattr(each, "response", None), dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return status, str(answer.get("Error", {}).get("Code", ""))
    return 0, ""


def _may_pass(error: Exception, status: int) -> bool:
    """Return whether a request may succeed later: two writers met, or the connection was lost."""
    if status:
        return status == _CONFLICT  # others were repeated by the client
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & {"HTTPClientError", "ClientError", "TimeoutError", "IncompleteRead"})


def _reason(error: Exception, status: int, code: str) -> str:
    """Say in one line what was wrong, without what a secret could be part of."""
    if code in _REASONS:
        return _REASONS[code]
    if status == _FORBIDDEN:
        return f"access denied ({code}): check the credentials and the policy of the bucket"
    if status == _UNSUPPORTED:
        return f"this object store does not support the request ({code})"
    if status:
        return f"the object store answers {status} {code}"
    name = type(error).__name__
    if name == "NoCredentialsError":
        return _NO_CREDENTIALS
    if name == "ParamValidationError":
        return "not the name of a bucket, or of an object"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    text, endpoint = str(error) or name, os.environ.get("AWS_ENDPOINT_URL", "")
    is_known = not endpoint or endpoint in text
    return _USER.sub("//", text if is_known else f"{text} (AWS_ENDPOINT_URL is {endpoint})")
