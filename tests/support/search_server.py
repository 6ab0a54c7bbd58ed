"""A server that speaks OpenAI's chat protocol and knows which frames show the rare thing.

It knows a picture by its looks: the nearest of the frames it was told of. Of its verdicts a share
is wrong, at random, but the same each time that the same is asked, and those that `lies` numbers;
`faults` befall its next answers, one each: skip, repeat, invent, prose, 429.
"""

import base64
import hashlib
import io
import json
import threading
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image
from vlm_server import listening

from annotate.video import reader

_SMALL = (24, 14)  # what a picture is known by; the number in its corner is left out


def rare_frames(record):
    """The frames of a clip of the show on which its rare character is seen."""
    name = record["info"].get("rare")
    kinds = {each["id"] for each in record["categories"] if each["name"] == name}
    return {a["image_id"] for a in record["annotations"] if a["category_id"] in kinds}


def _known_by(image):
    small = cv2.resize(image, _SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
    small[: _SMALL[1] // 3, : _SMALL[0] // 3] = 0
    return small.ravel()


@dataclass
class Knowing:
    """`errors` is the share of wrong verdicts; `answered` counts all, `wrong` those that were.

    `lies` are verdicts that are wrong whatever is asked, by number: 1 is the first that is given.
    """

    errors: float = 0.0
    lies: tuple[int, ...] = ()
    faults: list[str] = field(default_factory=list)
    always: str = ""
    looks: list = field(default_factory=list)
    truth: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    answered: int = 0
    wrong: int = 0
    busy: int = 0
    busiest: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, clip, rare):
        """Get to know a clip's frames, and which of them show the thing."""
        for frame in reader.frames(clip):
            self.looks.append(_known_by(frame.image))
            self.truth.append(frame.index in rare)

    def _sees(self, url):
        data = base64.b64decode(url.partition(",")[2])
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        apart = np.abs(np.array(self.looks) - _known_by(image)).mean(1)
        return bool(self.truth[int(apart.argmin())]), _is_numbered(image)

    def answer(self, path, body, headers):
        with self.lock:
            self.requests.append(body)
            asked = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
            rng = np.random.default_rng(list(asked))
            fault = self.faults.pop(0) if self.faults else self.always
        if fault == "429":
            return 429, {}, json.dumps({"error": {"message": "too many"}})
        content = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        seen = [self._sees(url) for url in urls]
        asked = [shown for shown, numbered in seen if numbered]
        flips = rng.random(len(asked)) < self.errors
        with self.lock:
            numbers = self.answered + 1 + np.arange(len(asked))
            flips |= np.isin(numbers, self.lies)
            self.answered, self.wrong = self.answered + len(asked), self.wrong + int(flips.sum())
        entries = [
            {"id": n, "shown": bool(shown ^ flip), "confidence": 0.9}
            for n, (shown, flip) in enumerate(zip(asked, flips, strict=True), start=1)
        ]
        return 200, {}, json.dumps(_completion(body, _faulty(entries, fault)))


def _is_numbered(image):
    corner = image[: image.shape[0] // 4, : image.shape[1] // 4].astype(int)
    red = (corner[..., 0] > 180) & (corner[..., 1] < 70) & (corner[..., 2] < 80)
    white = (corner > 225).all(-1)
    return bool(red.sum() > 15 and white.sum() > 15)


def _faulty(entries, fault):
    if fault == "skip":
        return entries[:-1]
    if fault == "repeat":
        return [*entries, entries[0]]
    if fault == "invent":
        return [*entries, {"id": 99, "shown": True, "confidence": 1.0}]
    return "I would rather not." if fault == "prose" else entries


def _completion(body, entries):
    if isinstance(entries, str):
        message = {"role": "assistant", "content": entries}
    else:
        called = {"name": "judge_pictures", "arguments": json.dumps({"pictures": entries})}
        call = {"id": "c", "type": "function", "function": called}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    pictures = sum(p["type"] == "image_url" for p in body["messages"][0]["content"])
    usage = {"prompt_tokens": 350 + 85 * pictures, "completion_tokens": 22 * pictures}
    usage["total_tokens"] = sum(usage.values())
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**reply, "choices": [choice], "usage": usage}


def serving(**how):
    """A Knowing at 127.0.0.1; `url` says where."""
    return listening(Knowing(**how))
