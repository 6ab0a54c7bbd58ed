"""Ask a model behind an OpenAI-compatible chat endpoint for boxes or text.

An answer's format is requested by tool call, by JSON schema or as plain JSON. Which of the three a
server supports is found out by trying, and remembered with the model's other notes. Answers are
cached on disk under the SHA-256 of the whole request, so asking the same again costs nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

from annotate import files
from annotate.errors import AnswerError, BudgetExceeded, OutputError, UnreadableAnswer, needs
from annotate.progress import Notes
from annotate.vlm import answer_cache, endpoint
from annotate.vlm.answers import AnswerParseError, ParsedBox, parse_boxes
from annotate.vlm.budget import Prices, Usage, UsageMeter
from annotate.vlm.endpoint import Reply, api_key_for, redact_key
from annotate.vlm.messages import (
    ResponseFormat,
    boxes_format,
    estimate_tokens,
    load_template,
    text_part,
)
from annotate.vlm.retry import RetryPolicy, TransientError
from annotate.vlm.thoughts import without_thoughts

T = TypeVar("T")

MODES = ("tool", "schema", "json")  # how a format of answers is requested, the strictest first
_UNSUPPORTED_STATUSES = {400, 404, 405, 415, 422, 501}  # replies to a mode that a server lacks
_MAX_ADAPTIONS = 4  # of one request, to the parameters that a server accepts
_REFUSAL = re.compile(  # a description does not begin so
    r"\W*(?:i['’]?m|i am) (?:very |so |really )?sorry\b"
    r"|\W*(?:(?:sorry|unfortunately|apologies)\W+)?(?:but )?"
    r"i(?:['’]?m| am)? ?(?:can(?:no|['’]?)t|can not|won['’]?t|will not|(?:not |un)able to)"
    r" (?:assist|help|comply|describe|provide|process|fulfil|continue|caption|analy[sz]e)",
    re.IGNORECASE,
)
_NO_TEMPERATURE = "questions were asked without a temperature, for the server refuses one"

_OPENAI_HEADERS = ("OpenAI-Organization", "OpenAI-Project")  # the client sends them to any host

MessageParts = Sequence[Mapping[str, Any]]  # texts and pictures of one message


class UnsupportedMode(AnswerError):
    """A server does not support the mode in which it was asked."""


@dataclass(frozen=True)
class Chat:
    """One model at one address.

    `key` names the environment variable that holds the API key. `mode` is how the format of an
    answer is requested: "tool", "schema", "json", or "auto" to try them in this order. With
    `cached`, answers are kept on disk. An answer that cannot be parsed is requested again, up to
    `parse_attempts` times in all. `notes` count what was asked in another way than was set.
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
    notes: Notes = field(default_factory=Notes, compare=False)

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai")
        key = api_key_for(self.url, self.key) or "none"
        omitted = dict.fromkeys(_OPENAI_HEADERS, openai.Omit())
        return openai.OpenAI(
            api_key=key,
            base_url=self.url,
            timeout=self.timeout_seconds,
            max_retries=0,  # `retry_policy` retries, for all threads together
            default_headers={} if endpoint.is_openai(self.url) else omitted,
        )

    @cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _server_facts(self) -> dict[str, str]:
        """What is known of the server, from the notes of the model: see `endpoint.adapted`.

        `way` is a supported mode.
        """
        notes = answer_cache.read_model_notes(self.url, self.model)
        names = ("way", "limit", "temperature")
        facts: dict[str, str] = {name: str(notes[name]) for name in names if name in notes}
        if self.mode != "auto" or facts.get("way") not in MODES:
            facts.pop("way", None)
        return facts

    @cached_property
    def _checked_cache(self) -> bool:
        """Check once, before a question is paid for, that its answer can be kept."""
        answer_cache.check_answers_writable()
        return True

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
        *,
        parse_attempts: int | None = None,
    ) -> T:
        """Ask for an answer in a format, and return what `parse` makes of it.

        Messages of errors begin with `context`. `parse_attempts` is instead of that of the chat.

        Raises:
            UnreadableAnswer: `parse` raised `AnswerParseError` for every answer.
            AnswerError: no answer came.
            BudgetExceeded: the request could exceed the budget.
            OutputError: answers are to be kept, and cannot be written.
        """
        question = {"url": self.url.rstrip("/"), "way": self.mode, **self._settings()}
        question |= {"parts": list(parts), **response_format.request_fields("tool")}
        digest = files.json_digest(question)
        if self.cached and (answer := answer_cache.read_answer(digest)) is not None:
            with suppress(AnswerParseError):  # an earlier version took it for readable: ask again
                value = parse(str(answer.get("text")))
                self.meter.count_cached()
                return value
        attempts = self.parse_attempts if parse_attempts is None else parse_attempts
        text, value = self._ask_until_readable(parts, response_format, parse, context, attempts)
        if self.cached:
            answer_cache.keep_answer(digest, {"text": text}, self.notes)
        return value

    def ask_text(self, parts: MessageParts, context: str) -> str:
        """Ask for an answer in free text; messages of errors begin with `context`.

        Raises:
            UnreadableAnswer: the model refuses, or the answer is empty.
            AnswerError: no answer came.
            BudgetExceeded, OutputError: see `ask`.
        """
        messages = [{"role": "user", "content": list(parts)}]
        request = self._settings() | {"messages": messages}
        digest = files.json_digest({"url": self.url.rstrip("/"), **request})
        if self.cached and (answer := answer_cache.read_answer(digest)) is not None:
            text = str(answer.get("text") or "")
            if text and not _REFUSAL.match(text):  # else an earlier version took it for an answer
                self.meter.count_cached()
                return text
        try:
            reply = self._send_metered(request, "", context)
        except TransientError as error:
            raise AnswerError(f"{context}: {error}") from None
        self._refuse_cut(reply, context)
        text = without_thoughts(reply.text).strip()
        refusal = reply.refusal or (text if _REFUSAL.match(text) else "")
        if refusal or not text:
            refusal = redact_key(refusal, api_key_for(self.url, self.key)) or "nothing"
            raise UnreadableAnswer(f"{context}: {self.model} says {refusal!r}")
        if self.cached:
            answer_cache.keep_answer(digest, {"text": text}, self.notes)
        return text

    def _ask_until_readable(
        self,
        parts: MessageParts,
        response_format: ResponseFormat,
        parse: Callable[[str], T],
        context: str,
        attempts: int,
    ) -> tuple[str, T]:
        """Return the first answer that can be parsed, and its parsed value."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": list(parts)}]
        for attempt in range(1, attempts + 1):
            reply = self._reply_in_supported_mode(messages, response_format, context)
            self._refuse_cut(reply, context)
            try:
                if reply.refusal:
                    raise AnswerParseError(reply.refusal)
                return reply.text, parse(reply.text)
            except AnswerParseError as error:
                excerpt = redact_key(str(error), api_key_for(self.url, self.key))
                if attempt == attempts:
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
                f"{context}: the answer of {self.model} is cut at {self.max_tokens} tokens: a part "
                f"of it is missing; allow more with `max_tokens={4 * self.max_tokens}`"
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
                reply = self._send_metered(request, response_format.function, context)
            except TransientError as error:
                if error.status not in _UNSUPPORTED_STATUSES:
                    raise AnswerError(f"{context}: {error}") from None
                if mode == modes[-1]:
                    raise UnsupportedMode(f"{context}: {error}") from None
                continue
            if self.mode == "auto":
                self._remember({"way": mode})
            return reply
        raise AssertionError("the last mode returns or raises")

    def _remember(self, facts: Mapping[str, str]) -> None:
        with self._lock:
            if not facts.items() <= self._server_facts.items():
                self._server_facts.update(facts)
                with suppress(OutputError):  # found out again by the next run
                    answer_cache.write_model_notes(self.url, self.model, **facts)

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

    def _send_metered(self, request: Mapping[str, Any], function: str, context: str) -> Reply:
        """Send a request, again while that may help; every try is within the budget.

        Raises:
            TransientError: the server refuses the request.
            AnswerError, BudgetExceeded: see `ask`.
        """
        if self.cached:
            _ = self._checked_cache
        most = Usage(estimate_tokens(request), self.max_tokens)

        def send() -> Reply:
            reserved = self._reserve(most)
            reply = None
            try:
                reply = self._send(request, function, context)
            finally:
                usage = reply.usage if reply else None
                self.meter.end(reserved, most, usage, answered=reply is not None)
            return reply

        return self.retry_policy.run(send, context)

    def _reserve(self, most: Usage) -> float:
        try:
            return self.meter.begin(most)
        except BudgetExceeded as error:
            kept = "; the answers are kept: the same command continues with them"
            lost = "; with `cache=no` answers are not kept: run again, they are asked again"
            hint = (kept if self.cached else lost) if self.meter.total.questions else ""
            raise BudgetExceeded(f"{error}{hint}") from None

    def _send(self, request: Mapping[str, Any], function: str, context: str) -> Reply:
        """Send a request, adapted to the parameters that the server accepts."""
        facts = dict(self._server_facts)
        for _ in range(_MAX_ADAPTIONS):
            sent = endpoint.adapted(request, facts)
            try:
                reply = self._send_once(sent, function)
            except _RefusedParameter as refused:
                facts |= refused.fact
                continue
            self._remember({key: facts[key] for key in ("limit", "temperature") if key in facts})
            if self.temperature is not None and "temperature" not in sent:
                self.notes.add(_NO_TEMPERATURE, context)
            return reply
        raise TransientError(f"{self.url}: refuses every form of the request", retryable=False)

    def _send_once(self, sent: Mapping[str, Any], function: str) -> Reply:
        openai = needs("openai")
        key = api_key_for(self.url, self.key)
        try:
            completion = self._client.chat.completions.create(**sent)
            return endpoint.parse_completion(completion, function, key)
        except endpoint.ContentRefused as error:
            return Reply("", Usage(), str(error))
        except openai.APITimeoutError:
            raise TransientError(
                f"{self.url}: no answer within {self.timeout_seconds:g} s"
            ) from None
        except openai.APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            text = endpoint.error_text(error.body) or error.message
            if fact := endpoint.learn_from_error(status, text, sent):
                raise _RefusedParameter(fact) from None
            message = redact_key(text, key)
            problem = endpoint.status_error(status, message, error.body, headers)
            if isinstance(problem, endpoint.ContentRefused):
                return Reply("", Usage(), message)
            raise problem from None
        except openai.APIConnectionError as error:
            reason = redact_key(str(error.__cause__ or error), key)
            raise TransientError(
                f"no server answers at {self.url}: {reason}; start it, or give the address of "
                "another one as `url`",
                retryable="refused" not in reason,  # no server listens there: waiting is in vain
            ) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise TransientError(f"{self.url}: {redact_key(str(error), key)}") from None


class _RefusedParameter(Exception):
    """A server refuses a parameter of a request; `fact` is what to remember of it."""

    def __init__(self, fact: Mapping[str, str]) -> None:
        super().__init__(str(fact))
        self.fact = fact
