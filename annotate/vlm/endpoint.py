"""Send requests to an OpenAI-compatible endpoint, and adapt them to what the server accepts.

API keys are read from environment variables only, are sent to one address only, and never appear
in a message. A server that refuses a parameter of a request (`max_tokens`, which newer models call
`max_completion_tokens`; `temperature`) is asked again without it, and the fact is remembered.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from annotate.errors import AnswerError
from annotate.vlm.budget import Usage
from annotate.vlm.retry import TransientError

# Host -> the variable with the key that it gets by default; other hosts get only a named key.
_KEY_VARIABLES = {"api.openai.com": "OPENAI_API_KEY", "api.moondream.ai": "MOONDREAM_API_KEY"}
AUTH_ERRORS = {401: "the key is not accepted", 403: "the key may not do this"}
_PARAMETER_STATUSES = {400, 422}  # replies to a parameter that a server does not take
_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")  # its two names; newer models take one
_REFUSED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|deprecated|unexpected|only the default"
    r"|not (?:allowed|permitted|accepted)|extra (?:inputs|fields)",
    re.IGNORECASE,
)
_CUT_REASONS = {"length", "max_tokens", "max_output_tokens", "model_length"}  # `finish_reason`
_FILTER_REASONS = {"content_filter", "refusal", "safety", "recitation", "prohibited_content"}
_FILTER_CODES = {"content_filter", "content_policy_violation"}  # of errors: one picture is refused
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}  # waiting does not help


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


@dataclass(frozen=True)
class Reply:
    """A model's text, or the arguments of its tool calls, one a line; `refusal` is a text too.

    `cut` is True where the answer ends at the limit of tokens. `usage` is None where the server
    sends no token counts.
    """

    text: str
    usage: Usage | None
    refusal: str = ""
    cut: bool = False


def adapted(request: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """Return a request with the parameters that the server accepts, by what is known of it."""
    limit = facts.get("limit", "max_tokens")
    dropped = {"temperature"} if facts.get("temperature") == "refused" else set()
    renamed = {limit if key == "max_tokens" else key: value for key, value in request.items()}
    return {key: value for key, value in renamed.items() if key not in dropped}


def learn_from_error(status: int, message: str, sent: Mapping[str, Any]) -> dict[str, str]:
    """Return the fact about a server that its error tells: a parameter that it does not take.

    `sent` is the request that it refused; empty where the error is about something else. Requests
    may be under way in parallel, so only the request itself says which parameters it had.
    """
    if status not in _PARAMETER_STATUSES:
        return {}
    used, other = _TOKEN_LIMITS if _TOKEN_LIMITS[0] in sent else reversed(_TOKEN_LIMITS)
    names_used = re.search(rf"\b{used}\b", message)
    if re.search(rf"\b{other}\b", message) or (names_used and _REFUSED.search(message)):
        return {"limit": other}
    if "temperature" in sent and "temperature" in message and _REFUSED.search(message):
        return {"temperature": "refused"}
    return {}


def error_text(body: Any) -> str:
    """Return the message in the decoded body of an error; empty if there is none."""
    message = body.get("message") if isinstance(body, Mapping) else None
    return message if isinstance(message, str) else ""


def status_error(status: int, message: str, body: Any, headers: Mapping[str, str]) -> Exception:
    """Make an error of an HTTP status of 400 or more; `body` is the decoded error.

    Some servers answer 500 where they lack tool calls.
    """
    record = body if isinstance(body, Mapping) else {}
    codes = {str(record.get(key) or "").lower() for key in ("code", "type")}
    if codes & _FILTER_CODES:
        return ContentRefused(message)
    if status >= 500 and "tool" in message:
        return TransientError(message, retryable=False, status=501)
    error = TransientError.from_status(status, AUTH_ERRORS.get(status, message), headers)
    error.retryable = error.retryable and not codes & _QUOTA_CODES
    return error


class ContentRefused(Exception):
    """The server's filter refuses the content of one question."""


def parse_completion(completion: Any, function: str, key: str | None) -> Reply:
    """Read text, token counts, refusal and end of a completion; any of them may be missing.

    Raises:
        TransientError: there is no message, or a record of another form than OpenAI's. Some
            servers send an error with HTTP status 200.
    """
    try:
        return _read_completion(completion, function, key)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise TransientError("an answer of another form than OpenAI's") from None


def _read_completion(completion: Any, function: str, key: str | None) -> Reply:
    choices = getattr(completion, "choices", None)
    choice = choices[0] if choices else None
    if error := getattr(completion, "error", None) or getattr(choice, "error", None):
        raise _error_in_body(error, key)
    message = getattr(choice, "message", None)
    if message is None:
        raise TransientError("an answer without a message")
    calls = getattr(message, "tool_calls", None) or []
    functions = [call.function for call in calls if getattr(call, "function", None)]
    arguments = [_arguments(f.arguments) for f in functions if f.name == function]
    text = "\n".join(filter(None, arguments)) or getattr(message, "content", None) or ""
    reason = str(getattr(choice, "finish_reason", None) or "").lower()
    refusal = str(getattr(message, "refusal", None) or "")
    if reason.partition(":")[0] in _FILTER_REASONS:
        refusal = refusal or "the content filter of the server stopped the answer"
    readable = str(text).encode(errors="replace").decode()  # without halves of surrogate pairs
    return Reply(readable, _usage(completion), refusal, cut=reason in _CUT_REASONS)


def _arguments(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value or "")


def _usage(completion: Any) -> Usage | None:
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    numbers = [n if isinstance(n, int) and 0 < n < 2**63 else 0 for n in counts]
    return Usage(*numbers) if any(numbers) else None


def _error_in_body(error: Any, key: str | None) -> Exception:
    """Make the error of an answer with HTTP status 200 that holds an error, as OpenRouter sends."""
    record = error if isinstance(error, Mapping) else {"message": error}
    message = redact_key(str(record.get("message") or record), key)
    code = str(record.get("code") or "")
    if code.isdigit() and int(code) >= 400:
        return status_error(int(code), message, record, {})
    if code.lower() in _FILTER_CODES:
        return ContentRefused(message)
    return TransientError(message, retryable=code.lower() not in _QUOTA_CODES)
