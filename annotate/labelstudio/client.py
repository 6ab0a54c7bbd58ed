"""Send requests to a Label Studio server, and turn its refusals into errors.

Requests go through label-studio-sdk's own HTTP layer, which knows both kinds of token and renews
the short-lived one. They do not use the SDK's methods where those are wrong: these send a POST
again after a lost response (an import of 100 tasks left 300), convert each body to models on the
way out and in (most of the time of a push), and print all headers in their errors.
"""

from __future__ import annotations

import json
import os
import stat
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from annotate.errors import LostResponse, StudioError, needs

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"  # the environment's name for a token, as the SDK has it
_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}
_TIMEOUT_SECONDS = 120.0
_MAX_TRIES, _PAUSE_SECONDS = 3, 1.0  # of what only asks
_PAGE_SIZE = 500
_GATEWAY_ERRORS = {502, 503, 504}  # what a proxy answers in place of its server


@dataclass(frozen=True)
class Project:
    """A project: its number, name and config, the predictions its editor shows, how many tasks."""

    id: int
    title: str
    config: str
    model_version: str
    task_count: int

    @classmethod
    def from_response(cls, response: Mapping[str, Any]) -> Self:
        """The project of which the server tells."""
        version, count = response["model_version"] or "", response["task_number"] or 0
        return cls(response["id"], response["title"], response["label_config"], version, count)


class StudioClient:
    """A Label Studio that answers at `url`.

    `documents` is the folder from which it serves local files, where that is on this machine.

    Raises:
        StudioError: the token is none that can be sent.
    """

    def __init__(
        self,
        url: str,
        token: str,
        document_root: Path | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self.url, self.document_root = url.rstrip("/"), document_root
        self._httpx = needs("httpx")
        self._errors = needs("label_studio_sdk.core.api_error")
        sdk = needs("label_studio_sdk.client")
        local = urlsplit(url).hostname in _LOOPBACK_HOSTS
        _check_token(token)
        self._client = self._httpx.Client(timeout=timeout_seconds, trust_env=not local)
        try:
            found = sdk.LabelStudio(
                base_url=self.url + "/", api_key=token, httpx_client=self._client, max_retries=0
            )
        except self._errors.ApiError as error:
            raise StudioError(f"{self.url}: {_token_refused_message(error.body)}") from None
        except ValueError as error:
            raise StudioError(f"{self.url}: not an address of a server: {error}") from None
        self._wrapper = found._client_wrapper
        self.token_kind = "legacy" if self._wrapper._tokens_client._use_legacy_token else "personal"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """What the server tells; asked again when the answer is lost.

        Raises:
            StudioError: it is not there, or refuses.
        """
        for attempt in range(1, _MAX_TRIES + 1):
            try:
                return self.send("GET", path, params=params)
            except LostResponse:
                if attempt == _MAX_TRIES:
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError("not reached")

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask once, and never again by itself. A `body` of bytes is JSON already.

        Raises:
            LostAnswer: it may have been done all the same.
            StudioError: the server is not there, or refuses.
        """
        made = body is None or isinstance(body, bytes)
        content = body if made else json.dumps(body, allow_nan=False).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        told = {"params": params, "content": content, "headers": headers, "files": files}
        return self._parse_response(self._request(method, path, **told), f"{method} {path}")

    def fetch(self, path: str) -> tuple[dict[str, str], bytes]:
        """What lies at a path, and its headers by their names in lower case.

        Raises:
            StudioError: nothing does, or the server refuses.
        """
        response = self._request("GET", path)
        if response.status_code >= 400:
            raise StudioError(f"{self.url}: GET {path}: {response.status_code}")
        return {key.lower(): value for key, value in response.headers.items()}, response.content

    def _request(self, method: str, path: str, **options: Any) -> Any:
        """The response, whatever it is; what keeps it from coming becomes an error of ours."""
        try:
            with (
                warnings.catch_warnings()
            ):  # what renews a personal token is written for pydantic 1
                warnings.filterwarnings("ignore", "The `parse_obj` method", DeprecationWarning)
                return self._wrapper.httpx_client.request(path, method=method, **options)
        except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
            raise StudioError(
                f"{self.url}: no Label Studio answers there ({error}); start one with "
                "`annotate studio up`, or give another --url"
            ) from None
        except self._httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise LostResponse(f"{self.url}: {method} {path}: the answer was lost: {why}") from None
        except self._errors.ApiError as error:  # a personal token that is not renewed
            raise StudioError(f"{self.url}: {_token_refused_message(error.body)}") from None
        except ValueError as error:
            raise StudioError(f"{self.url}: {method} {path}: {error}") from None

    def _parse_response(self, response: Any, request: str) -> Any:
        code, where = response.status_code, f"{self.url}: {request}"
        try:
            body = response.json() if response.content else None
        except ValueError:
            body = None if code >= 400 else response.text
        if code == 401:
            raise StudioError(f"{self.url}: {_token_refused_message(body)}")
        if code in _GATEWAY_ERRORS:
            raise LostResponse(f"{where}: the server is not there behind its proxy ({code})")
        if code >= 400:
            raise StudioError(f"{where}: {code}: {_error_detail(body)}")
        return body

    def current_user(self) -> dict[str, Any]:
        """The user whose token it is."""
        told: dict[str, Any] = self.get("/api/current-user/whoami")
        return told

    def find_project(self, project: str | int) -> Project | None:
        """The project of that name, or number; None where there is none.

        Raises:
            StudioError: several have the name.
        """
        if str(project).isdecimal():
            return self.get_project(int(project))
        listed = self.get(
            "/api/projects", {"title": project, "page_size": 1000, "include": "id,title"}
        )
        ids = [each["id"] for each in listed["results"] if each["title"] == project]
        if len(ids) > 1:
            raise StudioError(
                f"{self.url}: projects {', '.join(map(str, sorted(ids)))} are all called "
                f"{project!r}; give the number: --project {min(ids)}"
            )
        return self.get_project(ids[0]) if ids else None

    def require_project(self, project: str | int) -> Project:
        """The project of that name or number, which must be there.

        Raises:
            StudioError: it is not, or several have the name.
        """
        found = self.find_project(project)
        if found is None:
            raise StudioError(
                f"{self.url}: there is no project called {project!r}; push to it first"
            )
        return found

    def get_project(self, project_id: int) -> Project:
        """The project of that number.

        Raises:
            StudioError: there is none.
        """
        try:
            told = self.get(f"/api/projects/{project_id}/")
        except StudioError as error:
            if ": 404:" in str(error):
                raise StudioError(
                    f"{self.url}: there is no project {project_id}; was it deleted?"
                ) from None
            raise
        return Project.from_response(told)

    def tasks(
        self, project: int, include: str, filters: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        """Tasks, with the columns `include` only; `filters` as the Data Manager has them."""
        params: dict[str, Any] = {"project": project, "page_size": _PAGE_SIZE, "include": include}
        params["fields"] = "all"  # with task_only, drafts are not told
        if filters:
            told = {"filters": {"conjunction": "and", "items": list(filters)}}
            params["query"] = json.dumps(told)
        seen, page = 0, 1
        while True:
            listed = self.get("/api/tasks", params | {"page": page})
            yield from listed["tasks"]
            seen, page = seen + len(listed["tasks"]), page + 1
            if seen >= listed["total"] or not listed["tasks"]:
                return


def read_token(file: Path | None) -> str:
    """The token of the environment, or that in a file which nobody else may read.

    Raises:
        StudioError: there is none, or others may read the file.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token.strip():
            raise StudioError(
                f"no token: set {TOKEN_VARIABLE}, or give --token-file (made in Label Studio under "
                "Account & Settings > Personal Access Token)"
            )
        return token.strip()
    try:
        mode = file.stat().st_mode
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"{file}: no token can be read there: {error}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise StudioError(f"{file}: others may read this token: chmod 600 {file}")
    return token


def _check_token(token: str) -> None:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise StudioError("the token is empty, or has characters that no token has")


def _token_refused_message(body: Any) -> str:
    return (
        f"the token is refused: {_error_detail(body)}; make a new one under Account & Settings > "
        f"Personal Access Token, and set {TOKEN_VARIABLE} or give --token-file"
    )


def _error_detail(body: Any) -> str:
    """What a refusal says, in one line, whatever shape it has."""
    if isinstance(body, Mapping):
        told = body.get("validation_errors") or body.get("detail") or body
        return str(told)[:400]
    return str(body)[:400] if body else "it gives no reason"
