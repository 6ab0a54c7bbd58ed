"""A server with OpenAI's chat protocol that knows which frames show the target.

It recognizes a picture as the most similar of the frames that it has learnt. A share of its
verdicts is wrong at random, but equal questions get equal answers; `lies` are the numbers of
further wrong verdicts. `faults` are the faults of its next answers: skip, repeat, invent, prose,
empty, null, limit, 429, 500.
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

_THUMBNAIL_WH = (24, 14)


def rare_frames(record):
    """Return the frames of a clip of the show that show its rare character."""
    name = record["info"].get("rare")
    category_ids = {each["id"] for each in record["categories"] if each["name"] == name}
    return {a["image_id"] for a in record["annotations"] if a["category_id"] in category_ids}


def _thumbnail(image):
    """Scale an image down, without the corner in which its number may be."""
    width, height = _THUMBNAIL_WH
    thumbnail = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    thumbnail[: height // 3, : width // 3] = 0
    return thumbnail.astype(np.float32).ravel()


@dataclass
class TargetModel:
    """Answers which pictures show the target.

    `errors` is the share of wrong verdicts, `lies` are the numbers of further wrong ones, from 1.
    `answered` counts all verdicts, and `wrong` the wrong ones.
    """

    errors: float = 0.0
    lies: tuple[int, ...] = ()
    faults: list[str] = field(default_factory=list)
    always: str = ""
    refuses_target: bool = False  # a picture of the target makes it refuse the question
    thumbnails: list = field(default_factory=list)
    truth: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    answered: int = 0
    wrong: int = 0
    active_requests: int = 0
    max_active_requests: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, clip, rare):
        """Learn the frames of a clip, and which of them show the target."""
        for frame in reader.frames(clip):
            self.thumbnails.append(_thumbnail(frame.image))
            self.truth.append(frame.index in rare)

    def _look_at(self, url):
        """Return whether a picture shows the target, and whether it has a number."""
        data = base64.b64decode(url.partition(",")[2])
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        distances = np.abs(np.array(self.thumbnails) - _thumbnail(image)).mean(1)
        return bool(self.truth[int(distances.argmin())]), _is_numbered(image)

    def answer(self, path, body, headers):
        with self.lock:
            self.requests.append(body)
            digest = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
            rng = np.random.default_rng(list(digest))
            fault = self.faults.pop(0) if self.faults else self.always
        if fault.isdigit():
            return int(fault), {}, json.dumps({"error": {"message": "too many"}})
        content = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        pictures = [self._look_at(url) for url in urls]
        verdicts = [shown for shown, numbered in pictures if numbered]
        if self.refuses_target and any(verdicts):
            fault = "prose"
        flips = rng.random(len(verdicts)) < self.errors
        with self.lock:
            numbers = self.answered + 1 + np.arange(len(verdicts))
            flips |= np.isin(numbers, self.lies)
            self.answered, self.wrong = self.answered + len(verdicts), self.wrong + int(flips.sum())
        entries = [
            {"id": n, "shown": bool(shown ^ flip), "confidence": 0.9}
            for n, (shown, flip) in enumerate(zip(verdicts, flips, strict=True), start=1)
        ]
        return 200, {}, json.dumps(_completion(body, _faulty(entries, fault), fault))


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
    texts = {"prose": "I would rather not.", "empty": "", "null": None}
    return texts.get(fault, entries)


def _completion(body, entries, fault):
    if not isinstance(entries, list):
        message = {"role": "assistant", "content": entries}
    else:
        function = {"name": "judge_pictures", "arguments": json.dumps({"pictures": entries})}
        call = {"id": "c", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    pictures = sum(p["type"] == "image_url" for p in body["messages"][0]["content"])
    usage = {"prompt_tokens": 350 + 85 * pictures, "completion_tokens": 22 * pictures}
    reason = "length" if fault == "limit" else "stop"
    usage["total_tokens"] = sum(usage.values())
    choice = {"index": 0, "finish_reason": reason, "message": message}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**reply, "choices": [choice], "usage": usage}


def serving(**options):
    """Serve a `TargetModel` on this machine, at its `url`, while the context lasts."""
    return listening(TargetModel(**options))
