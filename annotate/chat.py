"""Ask a model behind an OpenAI-compatible chat endpoint for boxes; by tool, schema or plain JSON.

Which of the three a server takes is found out by asking, and remembered. Answers are kept on disk
by all that was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

from annotate import answer_cache, model_notes
from annotate.answers import Said, Unreadable, read
from annotate.endpoints import is_openai, key_for, without_key
from annotate.errors import AnswerError, UnreadableAnswer, needs
from annotate.patience import Patience, Trouble
from annotate.questions import Form, boxes, template, words
from annotate.spending import Meter, Prices, Usage

T = TypeVar("T")

WAYS = ("tool", "schema", "json")  # how an answer's form is asked for, the strictest first
_LACKS = {400, 404, 405, 415, 422, 501}  # what servers say to a form of answer that they lack
_LIMIT = "max_completion_tokens"  # what OpenAI's newer models call max_tokens, and insist on
_REFUSED = {401: "the key is not accepted", 403: "the key may not do this"}

_OWNER = ("OpenAI-Organization", "OpenAI-Project")  # which the client sends to any address

Parts = Sequence[Mapping[str, Any]]  # of a message: text and pictures


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
    patience: Patience = field(default_factory=lambda: Patience(4, 1.0), compare=False)
    meter: Meter = field(default_factory=lambda: Meter(Prices()), compare=False)
    cached: bool = True
    readings: int = 2  # times that an unreadable answer is asked for anew, the first included

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai")
        key = key_for(self.url, self.key) or "none"
        whose = {} if is_openai(self.url) else dict.fromkeys(_OWNER, openai.Omit())
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
        known = model_notes.notes(self.url, self.model).get("way")
        return {"way": known} if self.way == "auto" and known in WAYS else {}

    def boxes(self, parts: Parts, things: Sequence[str], what: str) -> list[Said]:
        """The boxes that the model gives of `things`; see `ask`."""
        return self.ask(parts, boxes(things), read, what)

    def ask(self, parts: Parts, form: Form, reading: Callable[[str], T], what: str) -> T:
        """What `reading` makes of the answer, which is of that form; `what` begins the errors.

        Raises:
            UnreadableAnswer: `reading` raised `Unreadable`, of answers given anew too.
            AnswerError: no answer came.
            BudgetSpent: the question might cost more than is left.
        """
        asked = {"url": self.url.rstrip("/"), "way": self.way, **self._settings()}
        asked |= {"parts": list(parts), **form.request("tool")}
        name = answer_cache.digest(asked)
        if self.cached and (known := answer_cache.recall(name)) is not None:
            self.meter.known()
            return reading(known["text"])
        text, found = self._readable(parts, form, reading, what)
        if self.cached:
            answer_cache.keep(name, {"text": text})
        return found

    def say(self, parts: Parts, what: str) -> str:
        """The answer in the model's own words, of no form; `what` begins the errors.

        Raises:
            UnreadableAnswer: it refuses, or says nothing.
            AnswerError: no answer came.
            BudgetSpent: the question might cost more than is left.
        """
        messages = [{"role": "user", "content": list(parts)}]
        request = self._settings() | {"messages": messages}
        name = answer_cache.digest({"url": self.url.rstrip("/"), **request})
        if self.cached and (known := answer_cache.recall(name)) is not None:
            self.meter.known()
            return str(known["text"])
        try:
            reply = self.patience.ask(partial(self._metered, request, ""), what)
        except Trouble as trouble:
            raise AnswerError(f"{what}: {trouble}") from None
        text = reply.text.strip()
        if reply.refused or not text:
            said = without_key(reply.refused, key_for(self.url, self.key)) or "nothing"
            raise UnreadableAnswer(f"{what}: {self.model} says {said!r}")
        if self.cached:
            answer_cache.keep(name, {"text": text})
        return text

    def _readable(
        self, parts: Parts, form: Form, reading: Callable[[str], T], what: str
    ) -> tuple[str, T]:
        """The first answer that can be read, and what it says."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": list(parts)}]
        for number in range(1, self.readings + 1):
            reply = self._reply(messages, form, what)
            try:
                if reply.refused:
                    raise Unreadable(reply.refused)
                return reply.text, reading(reply.text)
            except Unreadable as error:
                said = without_key(str(error), key_for(self.url, self.key))
                if number == self.readings:
                    gave = f"{what}: {self.model} gives no {form.of} that can be read: {said!r}"
                    raise UnreadableAnswer(gave) from None
            anew = [words(template(form.again).text)]
            answer = {"role": "assistant", "content": reply.text or said}
            messages = [messages[0], answer, {"role": "user", "content": anew}]
        raise AssertionError("the last reading returns or raises")

    def _reply(self, messages: Parts, form: Form, what: str) -> Reply:
        """The reply that the first way to ask brings that the server has."""
        found = self._found.get("way", "") if self.way == "auto" else self.way
        ways = (found,) if found else WAYS
        for way in ways:
            request = self._request(messages, form, way)
            try:
                reply = self.patience.ask(partial(self._metered, request, form.function), what)
            except Trouble as trouble:
                if way == ways[-1] or trouble.status not in _LACKS:
                    raise AnswerError(f"{what}: {trouble}") from None
                continue
            self._remember(way)
            return reply
        raise AssertionError("the last way returns or raises")

    def _remember(self, way: str) -> None:
        with self._lock:
            if self.way == "auto" and self._found.get("way") != way:
                self._found["way"] = way
                model_notes.note(self.url, self.model, way=way)

    def _request(self, messages: Parts, form: Form, way: str) -> dict[str, Any]:
        if way == "json":
            first, *rest = messages
            told = words(template(form.plainly).text)
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
        key = key_for(self.url, self.key)
        try:
            made = self._client.chat.completions.create(**_renamed(request, self._found))
            return _reply(made, function)
        except openai.APITimeoutError:
            raise Trouble(f"{self.url}: no answer within {self.timeout_seconds:g} s") from None
        except openai.APIStatusError as error:
            said = without_key(error.message, key)
            if _LIMIT in said and _LIMIT not in self._found.values():
                self._found["limit"] = _LIMIT
                return self._sent(request, function)
            raise _trouble(error.status_code, said, error.response.headers) from None
        except openai.APIConnectionError as error:
            why = without_key(str(error.__cause__ or error), key)
            again = "refused" not in why  # there is no server: it will not come while we wait
            raise Trouble(f"nobody answers at {self.url}: {why}", again=again) from None
        except (openai.OpenAIError, ValueError) as error:
            raise Trouble(f"{self.url}: {without_key(str(error), key)}") from None


def _trouble(status: int, said: str, headers: Mapping[str, str]) -> Trouble:
    """What an error of the server means; some say as one of their own that they lack tools."""
    if status >= 500 and "tool" in said:
        return Trouble(said, again=False, status=501)
    return Trouble.of_status(status, _REFUSED.get(status, said), headers)


def _renamed(request: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """The request with the limit on tokens under the name that the server has asked for."""
    limit = found.get("limit", "max_tokens")
    return {limit if key == "max_tokens" else key: value for key, value in request.items()}


def _reply(completion: Any, function: str) -> Reply:
    """What a completion says, of whichever of its parts are there."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise Trouble("an answer without a message")
    message = choices[0].message
    calls = getattr(message, "tool_calls", None) or []
    functions = [call.function for call in calls if getattr(call, "function", None)]
    called = [str(f.arguments) for f in functions if f.name == function]
    text = "\n".join(called) or getattr(message, "content", None) or ""
    used = getattr(completion, "usage", None)
    counts = (getattr(used, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return Reply(str(text), Usage(*counts), str(getattr(message, "refusal", None) or ""))
