"""Ask Moondream for boxes, points, captions and answers: by a server or on this machine.

The server is a Moondream Station or the Moondream cloud, through the `moondream` package; time-outs
and retries are ours, since that client has neither. On this machine Moondream 2 runs through
`transformers`, with the Python code of its pinned revision, only if the user allowed that code, and
with nothing downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError

from PIL import Image

from annotate import files
from annotate.errors import AnswerError, WeightsError, needs
from annotate.items.records import Box, Picture
from annotate.progress import Notes
from annotate.vlm import answer_cache, messages
from annotate.vlm.budget import Prices, Usage, UsageMeter
from annotate.vlm.endpoint import AUTH_ERRORS, api_key_for, redact_key
from annotate.vlm.retry import RetryPolicy, TransientError, with_timeout
from annotate.weights.store import weights_path

STATION_URL = "http://localhost:2020/v1"  # the default address of a Moondream Station

T = TypeVar("T")
_UNPARSED = (KeyError, TypeError, ValueError, AttributeError)  # of an answer of another form
_FULL_ANSWERS = "answers hold as many objects as `max_objects` allows: others may be missing"


@dataclass(frozen=True)
class Moondream:
    """Moondream at an address; `key` names the environment variable of the API key.

    The `moondream` client has no time-out and no retries, so both are added here. `local_model` is
    a model in this process that is asked instead: see `load_local`.

    Examples:
        >>> image = Moondream().encode_image(frame.image)  # doctest: +SKIP
        >>> image.boxes("mech"), image.query("Which colour is the mech?")  # doctest: +SKIP
    """

    endpoint: str = STATION_URL
    key: str = ""
    model: str = ""
    max_objects: int = 50
    timeout_seconds: float = 60.0
    retry_policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(4, 1.0), compare=False)
    meter: UsageMeter = field(default_factory=lambda: UsageMeter(Prices()), compare=False)
    cached: bool = True
    local_model: Any = field(default=None, compare=False, repr=False)
    notes: Notes = field(default_factory=Notes, compare=False)

    def encode_image(self, image: Picture) -> MoondreamImage:
        """Prepare a picture, (H, W, 3) RGB, for any number of questions; it is encoded once."""
        return MoondreamImage(self, image)

    @cached_property
    def client(self) -> Any:
        """The object with `detect`, `point`, `caption` and `query`, which return dicts."""
        if self.local_model is not None:
            return self.local_model
        url = self.endpoint.rstrip("/")
        key = api_key_for(url, self.key)
        return needs("moondream").vl(api_key=key, endpoint=url, model=self.model or None)

    def ask(
        self, skill: str, picture: Any, arguments: Mapping[str, Any], parse: Callable[[Any], T]
    ) -> T:
        """Ask for a skill, or read the cached answer, and return what `parse` makes of it.

        Raises:
            AnswerError: no answer came, or none that can be parsed.
        """
        question = {"endpoint": self.endpoint.rstrip("/"), "model": self.model, "what": skill}
        digest = files.json_digest({**question, **arguments})
        if self.cached and (answer := answer_cache.read_answer(digest)) is not None:
            with suppress(*_UNPARSED):  # an earlier version took it for readable: ask again
                value = parse(answer)
                self.meter.count_cached()
                return value
        if self.cached:
            answer_cache.check_answers_writable()

        def call() -> tuple[dict[str, Any], T]:
            answer = self._send_counted(skill, picture, arguments)
            try:
                return answer, parse(answer)
            except _UNPARSED as error:
                raise TransientError(f"an answer that cannot be read ({error!r})") from None

        try:
            answer, value = self.retry_policy.run(call, f"moondream {skill}")
        except TransientError as error:
            raise AnswerError(f"moondream {skill}: {error}") from None
        if self.cached:
            answer_cache.keep_answer(digest, answer, self.notes)
        return value

    def _send_counted(
        self, skill: str, picture: Any, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        reserved, usage = self.meter.begin(Usage()), None
        try:
            answer = self._send(skill, picture, arguments)
            usage = Usage()  # Moondream sends no token counts, and has no budget here
        finally:
            self.meter.end(reserved, Usage(), usage, answered=usage is not None)
        return answer

    def _send(self, skill: str, picture: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        options = {key: value for key, value in arguments.items() if key != "image"}
        method = getattr(self.client, skill)
        if self.local_model is not None:
            return dict(method(picture, **options))
        try:
            return dict(with_timeout(self.timeout_seconds, lambda: method(picture, **options)))
        except HTTPError as error:
            error.close()
            reason = self._redact(AUTH_ERRORS.get(error.code) or str(error.reason))
            raise TransientError.from_status(error.code, reason, dict(error.headers)) from None
        except URLError as error:
            raise TransientError(
                f"no server answers at {self.endpoint}: {self._redact(str(error.reason))}; start "
                "Moondream Station there, or give the address of a server as `endpoint`",
                retryable=not isinstance(error.reason, ConnectionRefusedError),
            ) from None
        except KeyError as error:
            raise TransientError(f"an answer without {error}") from None
        except (TypeError, AttributeError, RecursionError):  # of the client: no record came
            raise TransientError("an answer of another form than Moondream's") from None
        except (OSError, ValueError) as error:
            defect = "not JSON" if isinstance(error, json.JSONDecodeError) else "cut off"
            raise TransientError(
                f"an answer that is {defect}: {self._redact(str(error))}"
            ) from None

    def _redact(self, message: str) -> str:
        return redact_key(message, api_key_for(self.endpoint, self.key))


@dataclass(frozen=True)
class MoondreamImage:
    """A picture that Moondream is asked about; all coordinates are in its pixels."""

    moondream: Moondream
    image: Picture = field(repr=False, compare=False)

    @cached_property
    def _data_url(self) -> str:
        return str(messages.image_part(Image.fromarray(self.image), None)["image_url"]["url"])

    @cached_property
    def _encoded(self) -> Any:
        if self.moondream.local_model is not None:
            return Image.fromarray(self.image)
        return needs("moondream").types.Base64EncodedImage(image_url=self._data_url)

    def boxes(self, phrase: str) -> list[Box]:
        """Find the boxes, xyxy, of what a phrase names; the model gives no scores."""
        return self._locate("detect", "objects", phrase, self._box)

    def points(self, phrase: str) -> list[tuple[float, float]]:
        """Find a point (x, y) on each object that a phrase names."""
        return self._locate("point", "points", phrase, self._point)

    def _locate(self, skill: str, key: str, phrase: str, parse: Callable[[Any], T]) -> list[T]:
        """Ask for the objects that a phrase names; as many as are allowed may not be all."""
        most = self.moondream.max_objects
        question = {"object": phrase, "settings": {"max_objects": most}}
        found = self._ask(skill, question, lambda answer: _parse_list(answer[key], parse))
        if len(found) >= most:
            self.moondream.notes.add(_FULL_ANSWERS, repr(phrase))
        return found

    def caption(self, length: str = "normal") -> str:
        """Describe the picture in words; `length` is short, normal or long."""
        return self._ask(
            "caption", {"length": length}, lambda answer: _checked_text(answer["caption"])
        )

    def query(self, question: str) -> str:
        """Answer a question about the picture."""
        return self._ask(
            "query", {"question": question}, lambda answer: _checked_text(answer["answer"])
        )

    def _ask(self, skill: str, arguments: Mapping[str, Any], parse: Callable[[Any], T]) -> T:
        image = hashlib.sha256(self._data_url.encode()).hexdigest()
        return self.moondream.ask(skill, self._encoded, {**arguments, "image": image}, parse)

    def _box(self, record: Mapping[str, Any]) -> Box:
        """Convert a box to pixels; the model may give a little less than 0 or more than 1."""
        x1, x2 = sorted(self._to_pixels(record[side], 1) for side in ("x_min", "x_max"))
        y1, y2 = sorted(self._to_pixels(record[side], 0) for side in ("y_min", "y_max"))
        return x1, y1, x2, y2

    def _point(self, record: Mapping[str, Any]) -> tuple[float, float]:
        height, width = self.image.shape[:2]
        x, y = self._to_pixels(record["x"], 1), self._to_pixels(record["y"], 0)
        return min(x, width - 1.0), min(y, height - 1.0)

    def _to_pixels(self, fraction: Any, axis: int) -> float:
        is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        if not is_number or fraction != fraction:
            raise ValueError(f"expected a number from 0 to 1, got {fraction!r}")
        if not -0.5 <= fraction <= 1.5:
            raise ValueError(f"{fraction} is far outside 0..1")
        return min(max(float(fraction), 0.0), 1.0) * self.image.shape[axis]


def _parse_list(records: Any, parse: Callable[[Any], T]) -> list[T]:
    if not isinstance(records, list):
        raise ValueError(f"expected a list, got {records!r}")
    return [parse(record) for record in records]


def _checked_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text, got {value!r}")
    return value.strip().encode(errors="replace").decode()  # without halves of surrogate pairs


_TOKENIZER_REPO = (
    "moondream/starmie-v1"  # the model's own code asks the hub for it, without a revision
)


def load_local(
    name: str = "moondream2", *, trust_remote_code: bool = False, device: str = "cpu"
) -> Any:
    """Load Moondream 2 in this process: an object with `detect`, `point`, `caption` and `query`.

    `name` is a model of the manifest, or a folder. Nothing is downloaded.

    Raises:
        WeightsError: `trust_remote_code` is not given.
        MissingWeights: the model, or its tokenizer, is not on this machine.
        MissingPackage: transformers or torch is not installed.
    """
    if not trust_remote_code:
        raise WeightsError(
            f"{name} runs Python code that comes with its weights: read it in the folder that "
            f"`annotate models where {name}` prints, then give `trust_remote_code`"
        )
    folder, tokenizer = weights_path(name), weights_path("starmie-v1")
    torch, transformers = needs("torch"), needs("transformers")
    with _pinned_tokenizer(_TOKENIZER_REPO, tokenizer):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=True,
            local_files_only=True,
            dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        )
    return model.to(device).eval()


@contextmanager
def _pinned_tokenizer(repo: str, tokenizer: Path) -> Iterator[None]:
    """Let `hf_hub_download` return a local file, of a pinned revision, for the tokenizer `repo`."""
    hub: Any = needs("huggingface_hub")
    download = hub.hf_hub_download

    def replacement(repo_id: str, *args: Any, **kwargs: Any) -> Any:
        return str(tokenizer) if repo_id == repo else download(repo_id, *args, **kwargs)

    hub.hf_hub_download = replacement
    try:
        yield
    finally:
        hub.hf_hub_download = download
