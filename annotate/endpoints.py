"""Where a model's server is, and the key to it: keys come from the environment and stay there."""

import os
from urllib.parse import urlsplit

from annotate.errors import AnswerError

# Whose key is sent unasked, and only there; to any other address none is, unless it is named.
_KEYS = {"api.openai.com": "OPENAI_API_KEY", "api.moondream.ai": "MOONDREAM_API_KEY"}


def key_for(url: str, variable: str) -> str | None:
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
    return os.environ.get(variable or _KEYS.get(parts.hostname, "")) or None


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own."""
    return urlsplit(url).hostname == "api.openai.com"


def without_key(text: str, key: str | None) -> str:
    """Words of a server, short, without the key that it may repeat."""
    return " ".join(text.replace(key, "***").split() if key else text.split())[:200]
