"""Ask a model behind an OpenAI-compatible chat endpoint for boxes or text.

An answer's format is requested by tool call, by JSON schema or as plain JSON. Which of the three a
server supports is found out by trying, and remembered with the model's other notes in the user's
cache folder (one small JSON file for each address and model). Answers are cached on disk under the
SHA-256 of the whole request, so asking the same again costs nothing. API keys are read from
environment variables only, are sent to one address only, and never appear in a message.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from annotate import files
from annotate.errors import AnswerError, UnreadableAnswer, needs
from annotate.files import cache_dir, read_json, write_json
from annotate.vlm.budget import Prices, Usage, UsageMeter
from annotate.vlm.messages import (
    AnswerParseError,
    ParsedBox,
    ResponseFormat,
    boxes_format,
    load_template,
    parse_boxes,
    text_part,
)
from annotate.vlm.retry import RetryPolicy, TransientError

# Whose key is sent unasked, and only there; to any other address none is, unless it is named.
_KEY_VARIABLES = {"api.openai.com": "OPENAI_API_KEY", "api.moondream.ai": "MOONDREAM_API_KEY"}


def api_key_for(url: str, variable: str) -> str | None:
    """The key for an address, from the environment variable named, or its owner's usual one.

    Raises:
        AnswerError: the variable that was named is not set, or the address is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AnswerError(
            f"{url!r} is not an address: expected one such as http://localhost:8000/v1"
        )
    if parts.username or parts.password:
        raise AnswerError(f"the address of {parts.hostname} holds a password: name a key instead")
    if variable and not os.environ.get(variable):
        raise AnswerError(f"no key for {parts.hostname}: the environment has no {variable}")
    return os.environ.get(variable or _KEY_VARIABLES.get(parts.hostname, "")) or None


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own."""
    return urlsplit(url).hostname == "api.openai.com"


def redact_key(text: str, key: str | None) -> str:
    """Words of a server, short, without the key that it may repeat."""
    return " ".join(text.replace(key, "***").split() if key else text.split())[:200]


def read_model_notes(url: str, model: str) -> dict[str, Any]:
    """What is known; nothing where nothing is, or what is there is damaged."""
    try:
        known = json.loads(_notes_path(url, model).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_model_notes(url: str, model: str, **facts: Any) -> Path:
    """Remember facts beside those that are known; gives the file.

    Raises:
        OutputError: nothing can be written there.
    """
    path = _notes_path(url, model)
    write_json(
        path, {"url": url.rstrip("/"), "model": model} | read_model_notes(url, model) | facts
    )
    return path


def _notes_path(url: str, model: str) -> Path:
    both = f"{url.rstrip('/')} {model}"
    readable = re.sub(r"\W+", "-", model).strip("-")[:60]
    return (
        cache_dir() / "models" / f"{readable}-{hashlib.sha256(both.encode()).hexdigest()[:12]}.json"
    )


def cached_answer(name: str) -> dict[str, Any] | None:
    """What was answered; None where nothing was, or what is there is damaged."""
    return read_json(_answer_path(name))


def cache_answer(name: str, answer: Mapping[str, Any]) -> None:
    """Write down what was answered.

    Raises:
        OutputError: nothing can be written there.
    """
    write_json(_answer_path(name), answer)


def _answer_path(name: str) -> Path:
    return cache_dir() / "answers" / name[:2] / f"{name}.json"


T = TypeVar("T")

MODES = ("tool", "schema", "json")  # how an answer's form is asked for, the strictest first
_UNSUPPORTED_STATUSES = {
    400,
    404,
    405,
    415,
    422,
    501,
}  # what servers say to a form of answer that they lack
_NEW_TOKEN_LIMIT = (
    "max_completion_tokens"  # what OpenAI's newer models call max_tokens, and insist on
)
_AUTH_ERRORS = {401: "the key is not accepted", 403: "the key may not do this"}

_OPENAI_HEADERS = ("OpenAI-Organization", "OpenAI-Project")  # which the client sends to any address

MessageParts = Sequence[Mapping[str, Any]]  # of a message: text and pictures


@dataclass(frozen=True)
class Reply:
    """A model's words, or its tool calls' arguments, one a line; `refused` in its own words."""

    text: str
    usage: Usage
    refused: str = ""


@dataclass(frozen=True)
class Chat:
    """One model at one address; `key` names an environment variable."""

    url: str
    model: str
    key: str = ""
    way: str = "auto"
    temperature: float | None = 0.0
    max_tokens: int = 2048
    timeout_seconds: float = 60.0
    patience: RetryPolicy = field(default_factory=lambda: RetryPolicy(4, 1.0), compare=False)
    meter: UsageMeter = field(default_factory=lambda: UsageMeter(Prices()), compare=False)
    cached: bool = True
    readings: int = 2  # times that an unreadable answer is asked for anew, the first included

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai")
        key = api_key_for(self.url, self.key) or "none"
        whose = {} if is_openai(self.url) else dict.fromkeys(_OPENAI_HEADERS, openai.Omit())
        return openai.OpenAI(
            api_key=key,
            base_url=self.url,
            timeout=self.timeout_seconds,
            max_retries=0,
            default_headers=whose,
        )

    @cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _found(self) -> dict[str, str]:
        """What this run has found out: the way in which the server answers."""
        known = read_model_notes(self.url, self.model).get("way")
        return {"way": known} if self.way == "auto" and known in MODES else {}

    def boxes(self, parts: MessageParts, things: Sequence[str], what: str) -> list[ParsedBox]:
        """The boxes that the model gives of `things`; see `ask`."""
        return self.ask(parts, boxes_format(things), parse_boxes, what)

    def ask(
        self, parts: MessageParts, form: ResponseFormat, reading: Callable[[str], T], what: str
    ) -> T:
        """What `reading` makes of the answer, which is of that form; `what` begins the errors.

        Raises:
            UnreadableAnswer: `reading` raised `Unreadable`, of answers given anew too.
            AnswerError: no answer came.
            BudgetSpent: the question might cost more than is left.
        """
        asked = {"url": self.url.rstrip("/"), "way": self.way, **self._settings()}
        asked |= {"parts": list(parts), **form.request("tool")}
        name = files.json_digest(asked)
        if self.cached and (known := cached_answer(name)) is not None:
            self.meter.known()
            return reading(known["text"])
        text, found = self._readable(parts, form, reading, what)
        if self.cached:
            cache_answer(name, {"text": text})
        return found

    def say(self, parts: MessageParts, what: str) -> str:
        """The answer in the model's own words, of no form; `what` begins the errors.

        Raises:
            UnreadableAnswer: it refuses, or says nothing.
            AnswerError: no answer came.
            BudgetSpent: the question might cost more than is left.
        """
        messages = [{"role": "user", "content": list(parts)}]
        request = self._settings() | {"messages": messages}
        name = files.json_digest({"url": self.url.rstrip("/"), **request})
        if self.cached and (known := cached_answer(name)) is not None:
            self.meter.known()
            return str(known["text"])
        try:
            reply = self.patience.ask(partial(self._metered, request, ""), what)
        except TransientError as trouble:
            raise AnswerError(f"{what}: {trouble}") from None
        text = reply.text.strip()
        if reply.refused or not text:
            said = redact_key(reply.refused, api_key_for(self.url, self.key)) or "nothing"
            raise UnreadableAnswer(f"{what}: {self.model} says {said!r}")
        if self.cached:
            cache_answer(name, {"text": text})
        return text

    def _readable(
        self, parts: MessageParts, form: ResponseFormat, reading: Callable[[str], T], what: str
    ) -> tuple[str, T]:
        """The first answer that can be read, and what it says."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": list(parts)}]
        for number in range(1, self.readings + 1):
            reply = self._reply(messages, form, what)
            try:
                if reply.refused:
                    raise AnswerParseError(reply.refused)
                return reply.text, reading(reply.text)
            except AnswerParseError as error:
                said = redact_key(str(error), api_key_for(self.url, self.key))
                if number == self.readings:
                    gave = f"{what}: {self.model} gives no {form.of} that can be read: {said!r}"
                    raise UnreadableAnswer(gave) from None
            anew = [text_part(load_template(form.again).text)]
            answer = {"role": "assistant", "content": reply.text or said}
            messages = [messages[0], answer, {"role": "user", "content": anew}]
        raise AssertionError("the last reading returns or raises")

    def _reply(self, messages: MessageParts, form: ResponseFormat, what: str) -> Reply:
        """The reply that the first way to ask brings that the server has."""
        found = self._found.get("way", "") if self.way == "auto" else self.way
        ways = (found,) if found else MODES
        for way in ways:
            request = self._request(messages, form, way)
            try:
                reply = self.patience.ask(partial(self._metered, request, form.function), what)
            except TransientError as trouble:
                if way == ways[-1] or trouble.status not in _UNSUPPORTED_STATUSES:
                    raise AnswerError(f"{what}: {trouble}") from None
                continue
            self._remember(way)
            return reply
        raise AssertionError("the last way returns or raises")

    def _remember(self, way: str) -> None:
        with self._lock:
            if self.way == "auto" and self._found.get("way") != way:
                self._found["way"] = way
                write_model_notes(self.url, self.model, way=way)

    def _request(self, messages: MessageParts, form: ResponseFormat, way: str) -> dict[str, Any]:
        if way == "json":
            first, *rest = messages
            told = text_part(load_template(form.plainly).text)
            messages = [{**first, "content": [*first["content"], told]}, *rest]
        return self._settings() | {"messages": list(messages)} | form.request(way)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        return settings | ({} if self.temperature is None else {"temperature": self.temperature})

    def _metered(self, request: Mapping[str, Any], function: str) -> Reply:
        self.meter.begin()
        reply = None
        try:
            reply = self._sent(request, function)
        finally:
            self.meter.end(reply.usage if reply else None)
        return reply

    def _sent(self, request: Mapping[str, Any], function: str) -> Reply:
        openai = needs("openai")
        key = api_key_for(self.url, self.key)
        try:
            made = self._client.chat.completions.create(
                **_with_token_limit_name(request, self._found)
            )
            return _parse_completion(made, function)
        except openai.APITimeoutError:
            raise TransientError(
                f"{self.url}: no answer within {self.timeout_seconds:g} s"
            ) from None
        except openai.APIStatusError as error:
            said = redact_key(error.message, key)
            if _NEW_TOKEN_LIMIT in said and _NEW_TOKEN_LIMIT not in self._found.values():
                self._found["limit"] = _NEW_TOKEN_LIMIT
                return self._sent(request, function)
            raise _status_error(error.status_code, said, error.response.headers) from None
        except openai.APIConnectionError as error:
            why = redact_key(str(error.__cause__ or error), key)
            again = "refused" not in why  # there is no server: it will not come while we wait
            raise TransientError(f"nobody answers at {self.url}: {why}", again=again) from None
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"{self.url}: {redact_key(str(error), key)}") from None


def _status_error(status: int, said: str, headers: Mapping[str, str]) -> TransientError:
    """What an error of the server means; some say as one of their own that they lack tools."""
    if status >= 500 and "tool" in said:
        return TransientError(said, again=False, status=501)
    return TransientError.of_status(status, _AUTH_ERRORS.get(status, said), headers)


def _with_token_limit_name(request: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """The request with the limit on tokens under the name that the server has asked for."""
    limit = found.get("limit", "max_tokens")
    return {limit if key == "max_tokens" else key: value for key, value in request.items()}


def _parse_completion(completion: Any, function: str) -> Reply:
    """What a completion says, of whichever of its parts are there."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise TransientError("an answer without a message")
    message = choices[0].message
    calls = getattr(message, "tool_calls", None) or []
    functions = [call.function for call in calls if getattr(call, "function", None)]
    called = [str(f.arguments) for f in functions if f.name == function]
    text = "\n".join(called) or getattr(message, "content", None) or ""
    used = getattr(completion, "usage", None)
    counts = (getattr(used, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return Reply(str(text), Usage(*counts), str(getattr(message, "refusal", None) or ""))
