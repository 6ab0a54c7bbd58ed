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
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from annotate import files
from annotate.errors import AnswerError, OutputError, UnreadableAnswer, needs
from annotate.files import cache_dir, read_json, write_json
from annotate.vlm.answers import AnswerParseError, ParsedBox, parse_boxes
from annotate.vlm.budget import Prices, Usage, UsageMeter
from annotate.vlm.messages import ResponseFormat, boxes_format, load_template, text_part
from annotate.vlm.retry import RetryPolicy, TransientError

# Host -> the variable with the key that it gets by default; other hosts get only a named key.
_KEY_VARIABLES = {"api.openai.com": "OPENAI_API_KEY", "api.moondream.ai": "MOONDREAM_API_KEY"}


def api_key_for(url: str, env_variable: str) -> str | None:
    """Read the API key for an address from `env_variable`, or from the host's usual variable.

    Raises:
        AnswerError: `env_variable` is not set, or `url` is not an address.
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
    """Return whether an address is OpenAI's own."""
    return urlsplit(url).hostname == "api.openai.com"


def redact_key(text: str, key: str | None) -> str:
    """Redact the API key in a server's message, and shorten the message to 200 characters."""
    return " ".join(text.replace(key, "***").split() if key else text.split())[:200]


def read_model_notes(url: str, model: str) -> dict[str, Any]:
    """Read what is remembered of a model; empty if there is nothing, or the file is damaged."""
    try:
        notes = json.loads(_notes_path(url, model).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def write_model_notes(url: str, model: str, **facts: Any) -> Path:
    """Add facts to the notes of a model, and return the path of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    path = _notes_path(url, model)
    notes = {"url": url.rstrip("/"), "model": model} | read_model_notes(url, model) | facts
    write_json(path, notes)
    return path


def _notes_path(url: str, model: str) -> Path:
    digest = hashlib.sha256(f"{url.rstrip('/')} {model}".encode()).hexdigest()
    readable = re.sub(r"\W+", "-", model).strip("-")[:60]
    return cache_dir() / "models" / f"{readable}-{digest[:12]}.json"


def cached_answer(digest: str) -> dict[str, Any] | None:
    """Read a cached answer; None if there is none, or the file is damaged."""
    return read_json(_answer_path(digest))


def cache_answer(digest: str, answer: Mapping[str, Any]) -> None:
    """Write an answer to the cache.

    Raises:
        OutputError: the file cannot be written.
    """
    write_json(_answer_path(digest), answer)


def _keep_answer(digest: str, text: str) -> None:
    try:
        cache_answer(digest, {"text": text})
    except OutputError as error:
        raise OutputError(f"{error}; `cache=no` asks without keeping the answers") from None


def _answer_path(digest: str) -> Path:
    return cache_dir() / "answers" / digest[:2] / f"{digest}.json"


T = TypeVar("T")

MODES = ("tool", "schema", "json")  # how a format of answers is requested, the strictest first
_UNSUPPORTED_STATUSES = {400, 404, 405, 415, 422, 501}  # replies to a mode that a server lacks
_NEW_TOKEN_LIMIT = "max_completion_tokens"  # the only name that newer models of OpenAI accept
_CUT_REASONS = {"length", "max_tokens", "max_output_tokens", "model_length"}  # `finish_reason`
_AUTH_ERRORS = {401: "the key is not accepted", 403: "the key may not do this"}

_OPENAI_HEADERS = ("OpenAI-Organization", "OpenAI-Project")  # the client sends them to any host

MessageParts = Sequence[Mapping[str, Any]]  # texts and pictures of one message


@dataclass(frozen=True)
class Reply:
    """A model's text, or the arguments of its tool calls, one a line; `refusal` is a text too.

    `cut` is True where the answer ends at the limit of tokens.
    """

    text: str
    usage: Usage
    refusal: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Chat:
    """One model at one address.

    `key` names the environment variable that holds the API key. `mode` is how the format of an
    answer is requested: "tool", "schema", "json", or "auto" to try them in this order. With
    `cached`, answers are kept on disk. An answer that cannot be parsed is requested again, up to
    `parse_attempts` times in all.
    """

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
    parse_attempts: int = 2

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai")
        key = api_key_for(self.url, self.key) or "none"
        omitted = {} if is_openai(self.url) else dict.fromkeys(_OPENAI_HEADERS, openai.Omit())
        return openai.OpenAI(
            api_key=key,
            base_url=self.url,
            timeout=self.timeout_seconds,
            max_retries=0,  # `retry_policy` retries, for all threads together
            default_headers=omitted,
        )

    @cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _server_facts(self) -> dict[str, str]:
        """What is known of the server: `way`, a supported mode; `limit`, its name of max_tokens."""
        mode = read_model_notes(self.url, self.model).get("way")
        return {"way": mode} if self.mode == "auto" and mode in MODES else {}

    def ask_boxes(
        self, parts: MessageParts, phrases: Sequence[str], context: str
    ) -> list[ParsedBox]:
        """Ask for boxes of `phrases`; see `ask`."""
        parse = partial(parse_boxes, phrases=phrases)
        return self.ask(parts, boxes_format(phrases), parse, context)

    def ask(
        self,
        parts: MessageParts,
        response_format: ResponseFormat,
        parse: Callable[[str], T],
        context: str,
    ) -> T:
        """Ask for an answer in a format, and return what `parse` makes of it.

        Messages of errors begin with `context`.

        Raises:
            UnreadableAnswer: `parse` raised `AnswerParseError` for every answer.
            AnswerError: no answer came.
            BudgetExceeded: the request could exceed the budget.
        """
        question = {"url": self.url.rstrip("/"), "way": self.mode, **self._settings()}
        question |= {"parts": list(parts), **response_format.request_fields("tool")}
        digest = files.json_digest(question)
        if self.cached and (answer := cached_answer(digest)) is not None:
            with suppress(AnswerParseError):  # an earlier version took it for readable: ask again
                value = parse(str(answer.get("text")))
                self.meter.count_cached()
                return value
        text, value = self._ask_until_readable(parts, response_format, parse, context)
        if self.cached:
            _keep_answer(digest, text)
        return value

    def ask_text(self, parts: MessageParts, context: str) -> str:
        """Ask for an answer in free text; messages of errors begin with `context`.

        Raises:
            UnreadableAnswer: the model refuses, or the answer is empty.
            AnswerError: no answer came.
            BudgetExceeded: the request could exceed the budget.
        """
        messages = [{"role": "user", "content": list(parts)}]
        request = self._settings() | {"messages": messages}
        digest = files.json_digest({"url": self.url.rstrip("/"), **request})
        if self.cached and (answer := cached_answer(digest)) is not None:
            self.meter.count_cached()
            return str(answer["text"])
        try:
            reply = self.retry_policy.run(partial(self._send_metered, request, ""), context)
        except TransientError as error:
            raise AnswerError(f"{context}: {error}") from None
        self._refuse_cut(reply, context)
        text = reply.text.strip()
        if reply.refusal or not text:
            refusal = redact_key(reply.refusal, api_key_for(self.url, self.key)) or "nothing"
            raise UnreadableAnswer(f"{context}: {self.model} says {refusal!r}")
        if self.cached:
            _keep_answer(digest, text)
        return text

    def _ask_until_readable(
        self,
        parts: MessageParts,
        response_format: ResponseFormat,
        parse: Callable[[str], T],
        context: str,
    ) -> tuple[str, T]:
        """Return the first answer that can be parsed, and its parsed value."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": list(parts)}]
        for attempt in range(1, self.parse_attempts + 1):
            reply = self._reply_in_supported_mode(messages, response_format, context)
            self._refuse_cut(reply, context)
            try:
                if reply.refusal:
                    raise AnswerParseError(reply.refusal)
                return reply.text, parse(reply.text)
            except AnswerParseError as error:
                excerpt = redact_key(str(error), api_key_for(self.url, self.key))
                if attempt == self.parse_attempts:
                    raise UnreadableAnswer(
                        f"{context}: {self.model} gives no {response_format.name} that can be "
                        f"read: {excerpt!r}"
                    ) from None
            answer = {"role": "assistant", "content": reply.text or excerpt}
            request = [text_part(load_template(response_format.retry_template).text)]
            messages = [messages[0], answer, {"role": "user", "content": request}]
        raise AssertionError("the last attempt returns or raises")

    def _refuse_cut(self, reply: Reply, context: str) -> None:
        """Refuse an answer that is cut at the limit: objects may be missing from it."""
        if reply.cut:
            raise UnreadableAnswer(
                f"{context}: the answer of {self.model} is cut at {self.max_tokens} tokens: boxes "
                f"may be missing from it; allow more with `max_tokens={4 * self.max_tokens}`"
            )

    def _reply_in_supported_mode(
        self, messages: MessageParts, response_format: ResponseFormat, context: str
    ) -> Reply:
        """Send the messages in the known mode, or in the first mode that the server supports."""
        known = self._server_facts.get("way", "") if self.mode == "auto" else self.mode
        modes = (known,) if known else MODES
        for mode in modes:
            request = self._request(messages, response_format, mode)
            try:
                reply = self.retry_policy.run(
                    partial(self._send_metered, request, response_format.function), context
                )
            except TransientError as error:
                if mode == modes[-1] or error.status not in _UNSUPPORTED_STATUSES:
                    raise AnswerError(f"{context}: {error}") from None
                continue
            self._remember_mode(mode)
            return reply
        raise AssertionError("the last mode returns or raises")

    def _remember_mode(self, mode: str) -> None:
        with self._lock:
            if self.mode == "auto" and self._server_facts.get("way") != mode:
                self._server_facts["way"] = mode
                with suppress(OutputError):  # found out again by the next run
                    write_model_notes(self.url, self.model, way=mode)

    def _request(
        self, messages: MessageParts, response_format: ResponseFormat, mode: str
    ) -> dict[str, Any]:
        if mode == "json":
            first, *rest = messages
            instruction = text_part(load_template(response_format.json_template).text)
            messages = [{**first, "content": [*first["content"], instruction]}, *rest]
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
            completion = self._client.chat.completions.create(
                **_with_token_limit_name(request, self._server_facts)
            )
            return _parse_completion(completion, function)
        except openai.APITimeoutError:
            raise TransientError(
                f"{self.url}: no answer within {self.timeout_seconds:g} s"
            ) from None
        except openai.APIStatusError as error:
            message = redact_key(error.message, key)
            if _NEW_TOKEN_LIMIT in message and _NEW_TOKEN_LIMIT not in self._server_facts.values():
                self._server_facts["limit"] = _NEW_TOKEN_LIMIT
                return self._send(request, function)
            raise _status_error(error.status_code, message, error.response.headers) from None
        except openai.APIConnectionError as error:
            reason = redact_key(str(error.__cause__ or error), key)
            raise TransientError(
                f"no server answers at {self.url}: {reason}",
                retryable="refused" not in reason,  # no server listens there: waiting is in vain
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"{self.url}: {redact_key(str(error), key)}") from None


def _status_error(status: int, message: str, headers: Mapping[str, str]) -> TransientError:
    """Make an error of an HTTP status; some servers answer 500 where they lack tool calls."""
    if status >= 500 and "tool" in message:
        return TransientError(message, retryable=False, status=501)
    return TransientError.from_status(status, _AUTH_ERRORS.get(status, message), headers)


def _with_token_limit_name(
    request: Mapping[str, Any], server_facts: Mapping[str, str]
) -> dict[str, Any]:
    """Return the request with `max_tokens` under the name that the server accepts."""
    name = server_facts.get("limit", "max_tokens")
    return {name if key == "max_tokens" else key: value for key, value in request.items()}


def _parse_completion(completion: Any, function: str) -> Reply:
    """Read text, token counts, refusal and end of a completion; any of them may be missing."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise TransientError("an answer without a message")
    message = choices[0].message
    calls = getattr(message, "tool_calls", None) or []
    functions = [call.function for call in calls if getattr(call, "function", None)]
    arguments = [str(f.arguments) for f in functions if f.name == function]
    text = "\n".join(arguments) or getattr(message, "content", None) or ""
    usage = getattr(completion, "usage", None)
    counts = (getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
    reason = str(getattr(choices[0], "finish_reason", None) or "").lower()
    refusal = str(getattr(message, "refusal", None) or "")
    if reason == "content_filter":
        refusal = refusal or "the content filter of the server stopped the answer"
    return Reply(str(text), Usage(*counts), refusal, cut=reason in _CUT_REASONS)
