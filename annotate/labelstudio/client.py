"""Send requests to a Label Studio server, and turn its refusals into errors.

Requests go through the HTTP layer of label-studio-sdk, which knows both kinds of token and renews
the short-lived one. The methods of the SDK are not used, because they send a POST again after a
lost response (an import of 100 tasks left 300), convert each body to models on the way out and in
(most of the time of a push), and print all headers in their errors.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from annotate.errors import LostResponse, StudioError, needs

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"  # environment variable, as in the SDK
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}
_TIMEOUT_SECONDS = 120.0
_MAX_TRIES, _PAUSE_SECONDS = 3, 1.0  # of requests that change nothing
_PAGE_SIZE = 500
_GATEWAY_ERRORS = {502, 503, 504}  # a proxy answers these when its server is gone


@dataclass(frozen=True)
class Project:
    """A project: id, title, labelling config, model of its predictions, task count, creation time.

    Two projects of one address and number, such as those of two servers in turn, differ in
    `created_at`, which is exact to the microsecond.
    """

    id: int
    title: str
    config: str
    model_version: str
    task_count: int
    created_at: str = ""

    @classmethod
    def from_response(cls, response: Mapping[str, Any]) -> Self:
        """Make a project of the server's response."""
        version, count = response["model_version"] or "", response["task_number"] or 0
        created_at = str(response.get("created_at") or "")
        title, config = response["title"], response["label_config"]
        return cls(response["id"], title, config, version, count, created_at)


class StudioClient:
    """A client of the Label Studio server at `url`.

    `document_root` is the folder from which a server on this machine serves local files.

    Raises:
        StudioError: the token or the address cannot be valid.
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
        local = urlsplit(url).hostname in LOOPBACK_HOSTS
        _check_token(token)
        self._client = self._httpx.Client(timeout=timeout_seconds, trust_env=not local)
        try:
            studio = sdk.LabelStudio(
                base_url=self.url + "/", api_key=token, httpx_client=self._client, max_retries=0
            )
        except self._errors.ApiError as error:
            raise StudioError(f"{self.url}: {_token_refused_message(error.body)}") from None
        except ValueError as error:
            raise StudioError(f"{self.url}: not the address of a server: {error}") from None
        self._wrapper = studio._client_wrapper
        self.token_kind = "legacy" if self._wrapper._tokens_client._use_legacy_token else "personal"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a GET request, again if the response is lost, and return the parsed body.

        Raises:
            StudioError: the server does not answer, or refuses.
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
        """Send a request once, without retries, and return the parsed body of the response.

        `body` is sent as JSON; bytes are sent as they are.

        Raises:
            LostResponse: no response came, but the request may have been carried out.
            StudioError: the server does not answer, or refuses.
        """
        encoded = body is None or isinstance(body, bytes)
        content = body if encoded else json.dumps(body, allow_nan=False).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        options = {"params": params, "content": content, "headers": headers, "files": files}
        response = self._request(method, path, **options)
        self._remove_export(response.headers.get("filename", ""))
        return self._parse_response(response, f"{method} {path}")

    def _remove_export(self, name: str) -> None:
        """Remove the copy that a server on this machine keeps of each export that it sends."""
        if self.document_root is not None and re.fullmatch(r"project-[\w-]+\.json", name):
            folder = self.document_root.parent / "export"
            for file in (name, name.replace(".json", "-info.json")):
                with suppress(OSError):
                    (folder / file).unlink(missing_ok=True)

    def fetch(self, path: str) -> tuple[dict[str, str], bytes]:
        """Fetch a file: the response headers, with names in lower case, and the content.

        Raises:
            StudioError: there is no such file, or the server refuses.
        """
        response = self._request("GET", path)
        if response.status_code >= 400:
            raise StudioError(f"{self.url}: GET {path}: {response.status_code}")
        return {key.lower(): value for key, value in response.headers.items()}, response.content

    def _request(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the response; raise transport errors as StudioError."""
        try:
            with warnings.catch_warnings():  # the SDK renews tokens by pydantic 1
                warnings.filterwarnings("ignore", "The `parse_obj` method", DeprecationWarning)
                return self._wrapper.httpx_client.request(path, method=method, **options)
        except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
            raise StudioError(
                f"{self.url}: no Label Studio answers there ({error}); start one with "
                "`annotate studio up`, or give another `url`"
            ) from None
        except self._httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise LostResponse(
                f"{self.url}: {method} {path}: the response was lost: {reason}"
            ) from None
        except self._errors.ApiError as error:  # a personal token could not be renewed
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
            raise LostResponse(f"{where}: the server behind the proxy does not answer ({code})")
        if code >= 400:
            raise StudioError(f"{where}: {code}: {_error_detail(body)}")
        return body

    def current_user(self) -> dict[str, Any]:
        """Get the user of the token."""
        user: dict[str, Any] = self.get("/api/current-user/whoami")
        return user

    def server_identity(self) -> str:
        """Return what stays the same wherever the server's database moves: when it was made."""
        organizations = self.get("/api/organizations/")
        return min((str(each.get("created_at")) for each in organizations), default="")

    def list_titles(self, text: str) -> list[tuple[int, str]]:
        """List the ids and titles of the projects that have `text` in their title."""
        parameters = {"title": text, "page_size": 1000, "include": "id,title"}
        return [(each["id"], each["title"]) for each in self._project_pages(parameters)]

    def _project_pages(self, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        page, more = 1, True
        while more:
            listed = self.get("/api/projects", {**parameters, "page": page})
            yield from listed["results"]
            page, more = page + 1, bool(listed["next"])

    def find_project(self, project: str | int) -> Project | None:
        """Find a project by its title or id; None where there is no such title.

        A text of digits is a title if a project is called so, and else an id. `title:2025` and
        `id:2025` are a title and an id in any case.

        Raises:
            StudioError: several projects are meant, or there is no such id.
        """
        kind, _, name = str(project).rpartition(":")
        if isinstance(project, int) or (kind == "id" and name.isdecimal()):
            return self.get_project(int(name))
        title = str(project).removeprefix("title:")
        ids = [id_ for id_, each in self.list_titles(title) if each == title]
        if len(ids) > 1:
            raise StudioError(
                f"{self.url}: projects {', '.join(map(str, sorted(ids)))} are all called "
                f"{title!r}; give the number as `project`, such as {min(ids)}"
            )
        if title == project and title.isdecimal():
            return self._find_by_digits(title, ids)
        return self.get_project(ids[0]) if ids else None

    def _find_by_digits(self, digits: str, ids_of_title: Sequence[int]) -> Project:
        """Find the project that is meant by digits, of which `ids_of_title` has the title's id."""
        if not ids_of_title:
            try:
                return self.get_project(int(digits))
            except StudioError as error:
                new = f"; for a new project of this title give `project` as title:{digits}"
                raise StudioError(f"{error}{new}") from None
        by_id = [project for project, _ in self.list_titles("") if project == int(digits)]
        if by_id and by_id != [*ids_of_title]:
            raise StudioError(
                f"{self.url}: project {ids_of_title[0]} is called {digits!r}, and project {digits} "
                f"has this number; give `project` as id:{ids_of_title[0]} or id:{digits}"
            )
        return self.get_project(ids_of_title[0])

    def require_project(self, project: str | int) -> Project:
        """Find a project by its title or id; it must be there.

        Raises:
            StudioError: there is no such project, or several have the title.
        """
        existing = self.find_project(project)
        if existing is None:
            raise StudioError(
                f"{self.url}: there is no project called {str(project).removeprefix('title:')!r}; "
                "push to it first"
            )
        return existing

    def get_project(self, project_id: int) -> Project:
        """Get a project by its id.

        Raises:
            StudioError: there is no such project.
        """
        try:
            response = self.get(f"/api/projects/{project_id}/")
        except StudioError as error:
            if ": 404:" in str(error):
                raise StudioError(
                    f"{self.url}: there is no project {project_id}; was it deleted?"
                ) from None
            raise
        return Project.from_response(response)

    def tasks(
        self, project: int, include: str, filters: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        """Iterate over tasks with the columns `include`; `filters` are the Data Manager's."""
        params: dict[str, Any] = {"project": project, "page_size": _PAGE_SIZE, "include": include}
        params["fields"] = "all"  # with task_only, drafts are left out
        if filters:
            query = {"filters": {"conjunction": "and", "items": list(filters)}}
            params["query"] = json.dumps(query)
        count, page = 0, 1
        while True:
            listed = self.get("/api/tasks", params | {"page": page})
            yield from listed["tasks"]
            count, page = count + len(listed["tasks"]), page + 1
            if count >= listed["total"] or not listed["tasks"]:
                return


def read_token(file: Path | None) -> str:
    """Read the token from `file`, or from the environment variable LABEL_STUDIO_API_KEY.

    Raises:
        StudioError: there is no token, or other users may read the file.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token.strip():
            raise StudioError(
                f"no token: set {TOKEN_VARIABLE}, or give `token_file`; make a token in Label "
                "Studio under Account & Settings > Personal Access Token"
            )
        return token.strip()
    try:
        mode = file.stat().st_mode
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"{file}: the token cannot be read: {error}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise StudioError(f"{file}: others may read this token; run chmod 600 {file}")
    return token


def _check_token(token: str) -> None:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise StudioError(
            "the token is empty, or has characters that a token cannot have; copy it again from "
            "Account & Settings > Personal Access Token"
        )


def _token_refused_message(body: Any) -> str:
    return (
        f"the token is refused: {_error_detail(body)}; make a new one under Account & Settings > "
        f"Personal Access Token, and set {TOKEN_VARIABLE} or give `token_file`"
    )


def _error_detail(body: Any) -> str:
    """Extract the message of a refusal, whatever its shape, in one line."""
    if isinstance(body, Mapping):
        detail = body.get("validation_errors") or body.get("detail") or body
        return str(detail)[:400]
    return str(body)[:400] if body else "no reason is given"
