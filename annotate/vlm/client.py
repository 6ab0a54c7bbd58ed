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


def api_key_for(url: str, env_variable: str) -> str | None:
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
    if env_variable and not os.environ.get(env_variable):
        raise AnswerError(f"no key for {parts.hostname}: the environment has no {env_variable}")
    return os.environ.get(env_variable or _KEY_VARIABLES.get(parts.hostname, "")) or None


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


def cached_answer(digest: str) -> dict[str, Any] | None:
    """What was answered; None where nothing was, or what is there is damaged."""
    return read_json(_answer_path(digest))


def cache_answer(digest: str, answer: Mapping[str, Any]) -> None:
    """Write down what was answered.

    Raises:
        OutputError: nothing can be written there.
    """
    write_json(_answer_path(digest), answer)


def _answer_path(digest: str) -> Path:
    return cache_dir() / "answers" / digest[:2] / f"{digest}.json"


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
    refusal: str = ""


@dataclass(frozen=True)
class Chat:
    """One model at one address; `key` names an environment variable."""

    url: str
    model: str
    key: str = ""
    mode: str = "auto"
    temperature: float | None = 0.0
    max_tokens: int = 2048
    timeout_seconds: float = 60.0
    retry_policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(4, 1.0), compare=False)
    meter: UsageMeter = field(default_factory=lambda: UsageMeter(Prices()), compare=False)
    cached: bool = True
    parse_attempts: int = 2  # times that an unreadable answer is asked for anew, the first included

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
    def _server_facts(self) -> dict[str, str]:
        """What this run has found out: the way in which the server answers."""
        known = read_model_notes(self.url, self.model).get("way")
        return {"way": known} if self.mode == "auto" and known in MODES else {}

    def ask_boxes(
        self, parts: MessageParts, phrases: Sequence[str], context: str
    ) -> list[ParsedBox]:
        """The boxes that the model gives of `things`; see `ask`."""
        return self.ask(parts, boxes_format(phrases), parse_boxes, context)

    def ask(
        self,
        parts: MessageParts,
        response_format: ResponseFormat,
        parse: Callable[[str], T],
        context: str,
    ) -> T:
        """What `reading` makes of the answer, which is of that form; `what` begins the errors.

        Raises:
            UnreadableAnswer: `reading` raised `Unreadable`, of answers given anew too.
            AnswerError: no answer came.
            BudgetSpent: the question might cost more than is left.
        """
        asked = {"url": self.url.rstrip("/"), "way": self.mode, **self._settings()}
        asked |= {"parts": list(parts), **response_format.request_fields("tool")}
        name = files.json_digest(asked)
        if self.cached and (known := cached_answer(name)) is not None:
            self.meter.count_cached()
            return parse(known["text"])
        text, found = self._ask_until_readable(parts, response_format, parse, context)
        if self.cached:
            cache_answer(name, {"text": text})
        return found

    def ask_text(self, parts: MessageParts, context: str) -> str:
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
            self.meter.count_cached()
            return str(known["text"])
        try:
            reply = self.retry_policy.run(partial(self._send_metered, request, ""), context)
        except TransientError as trouble:
            raise AnswerError(f"{context}: {trouble}") from None
        text = reply.text.strip()
        if reply.refusal or not text:
            said = redact_key(reply.refusal, api_key_for(self.url, self.key)) or "nothing"
            raise UnreadableAnswer(f"{context}: {self.model} says {said!r}")
        if self.cached:
            cache_answer(name, {"text": text})
        return text

    def _ask_until_readable(
        self,
        parts: MessageParts,
        response_format: ResponseFormat,
        parse: Callable[[str], T],
        context: str,
    ) -> tuple[str, T]:
        """The first answer that can be read, and what it says."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": list(parts)}]
        for number in range(1, self.parse_attempts + 1):
            reply = self._reply_in_supported_mode(messages, response_format, context)
            try:
                if reply.refusal:
                    raise AnswerParseError(reply.refusal)
                return reply.text, parse(reply.text)
            except AnswerParseError as error:
                said = redact_key(str(error), api_key_for(self.url, self.key))
                if number == self.parse_attempts:
                    gave = f"{context}: {self.model} gives no {response_format.name} that can be read: {said!r}"
                    raise UnreadableAnswer(gave) from None
            anew = [text_part(load_template(response_format.retry_template).text)]
            answer = {"role": "assistant", "content": reply.text or said}
            messages = [messages[0], answer, {"role": "user", "content": anew}]
        raise AssertionError("the last reading returns or raises")

    def _reply_in_supported_mode(
        self, messages: MessageParts, response_format: ResponseFormat, context: str
    ) -> Reply:
        """The reply that the first way to ask brings that the server has."""
        found = self._server_facts.get("way", "") if self.mode == "auto" else self.mode
        ways = (found,) if found else MODES
        for way in ways:
            request = self._request(messages, response_format, way)
            try:
                reply = self.retry_policy.run(
                    partial(self._send_metered, request, response_format.function), context
                )
            except TransientError as trouble:
                if way == ways[-1] or trouble.status not in _UNSUPPORTED_STATUSES:
                    raise AnswerError(f"{context}: {trouble}") from None
                continue
            self._remember_mode(way)
            return reply
        raise AssertionError("the last way returns or raises")

    def _remember_mode(self, mode: str) -> None:
        with self._lock:
            if self.mode == "auto" and self._server_facts.get("way") != mode:
                self._server_facts["way"] = mode
                write_model_notes(self.url, self.model, way=mode)

    def _request(
        self, messages: MessageParts, response_format: ResponseFormat, mode: str
    ) -> dict[str, Any]:
        if mode == "json":
            first, *rest = messages
            told = text_part(load_template(response_format.json_template).text)
            messages = [{**first, "content": [*first["content"], told]}, *rest]
        return (
            self._settings() | {"messages": list(messages)} | response_format.request_fields(mode)
        )

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        return settings | ({} if self.temperature is None else {"temperature": self.temperature})

    def _send_metered(self, request: Mapping[str, Any], function: str) -> Reply:
        self.meter.begin()
        reply = None
        try:
            reply = self._send(request, function)
        finally:
            self.meter.end(reply.usage if reply else None)
        return reply

    def _send(self, request: Mapping[str, Any], function: str) -> Reply:
        openai = needs("openai")
        key = api_key_for(self.url, self.key)
        try:
            made = self._client.chat.completions.create(
                **_with_token_limit_name(request, self._server_facts)
            )
            return _parse_completion(made, function)
        except openai.APITimeoutError:
            raise TransientError(
                f"{self.url}: no answer within {self.timeout_seconds:g} s"
            ) from None
        except openai.APIStatusError as error:
            said = redact_key(error.message, key)
            if _NEW_TOKEN_LIMIT in said and _NEW_TOKEN_LIMIT not in self._server_facts.values():
                self._server_facts["limit"] = _NEW_TOKEN_LIMIT
                return self._send(request, function)
            raise _status_error(error.status_code, said, error.response.headers) from None
        except openai.APIConnectionError as error:
            why = redact_key(str(error.__cause__ or error), key)
            again = "refused" not in why  # there is no server: it will not come while we wait
            raise TransientError(f"nobody answers at {self.url}: {why}", retryable=again) from None
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"{self.url}: {redact_key(str(error), key)}") from None


def _status_error(status: int, message: str, headers: Mapping[str, str]) -> TransientError:
    """What an error of the server means; some say as one of their own that they lack tools."""
    if status >= 500 and "tool" in message:
        return TransientError(message, retryable=False, status=501)
    return TransientError.from_status(status, _AUTH_ERRORS.get(status, message), headers)


def _with_token_limit_name(
    request: Mapping[str, Any], server_facts: Mapping[str, str]
) -> dict[str, Any]:
    """The request with the limit on tokens under the name that the server has asked for."""
    limit = server_facts.get("limit", "max_tokens")
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
