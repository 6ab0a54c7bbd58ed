"""A fake model server: OpenAI's chat completions and Moondream's API, with faults on request.

It detects the rectangles of the colours `annotate.vlm.coordinates.RECTANGLE_COLOURS`, and on frames
of the bundled clip the boxes of the ground truth, by the name of the category.
"""

import base64
import io
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from PIL import Image
from sample_data import CLIPS

from annotate.video import reader
from annotate.vlm.coordinates import RECTANGLE_COLOURS

TRUTH = json.loads((CLIPS / "demo.gt.json").read_text())
TRUTH_FRAMES = (0, 30, 60)
KEY = "sk-a-key-that-nobody-may-see"


def truth(frame, name):
    """Return the boxes of a category on a frame of the bundled clip, xyxy in pixels."""
    [category] = [each["id"] for each in TRUTH["categories"] if each["name"] == name]
    on_frame = [a for a in TRUTH["annotations"] if a["image_id"] == frame]
    boxes = [a["bbox"] for a in on_frame if a["category_id"] == category]
    return [[x, y, x + w, y + h] for x, y, w, h in boxes]


def _thumbnail(image):
    return cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA).astype(float)


THUMBNAILS = {
    f.index: _thumbnail(f.image) for f in reader.frames_at(CLIPS / "demo.mp4", TRUTH_FRAMES)
}


def boxes_in_image(image, name):
    """Return the boxes of a class name in an image, xyxy as shares of its size."""
    height, width = image.shape[:2]
    colour = RECTANGLE_COLOURS.get(name.removesuffix(" rectangle"))
    if colour:
        mask = np.abs(image.astype(int) - colour).max(2) < 40
        if not mask.any():
            return []
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        return [(box / [width, height, width, height]).tolist()]
    name = {"person": "ShotgunGuy"}.get(name, name)
    if name not in {each["name"] for each in TRUTH["categories"]}:
        return []
    shown = without_padding(image)
    thumbnail = _thumbnail(shown)
    frame = min(THUMBNAILS, key=lambda index: np.abs(THUMBNAILS[index] - thumbnail).mean())
    share_wh = np.tile([shown.shape[1] / width, shown.shape[0] / height], 2)
    return [
        (np.array(box) / [800, 600, 800, 600] * share_wh).tolist() for box in truth(frame, name)
    ]


def without_padding(image):
    """Cut the black rows below and columns at the right that make sides whole patches."""
    light = image.max(2) > 12
    rows, columns = np.flatnonzero(light.mean(1) > 0.02), np.flatnonzero(light.mean(0) > 0.02)
    if not len(rows) or not len(columns):
        return image
    return image[
        : max(rows[-1] + 1, image.shape[0] - 27), : max(columns[-1] + 1, image.shape[1] - 27)
    ]


def to_coordinates(shares, size_wh, scale, box_order):
    """Convert shares of the picture to the coordinates of a model with this scale and order."""
    wh = np.array(size_wh, float)
    full_wh = {
        "unit": np.ones(2),
        "thousand": np.full(2, 1000.0),
        "999": np.full(2, 999.0),
        "sent": wh,
        "longest": 640 * wh / wh.max(),
        "padded": 1000 * wh / wh.max(),
        "shortest": 768 * wh / wh.min(),
        "area": 700 * wh / np.sqrt(wh.prod()),
        "patches": (wh / 28).round() * 28,  # pixels of a picture of whole patches: Qwen2.5-VL
    }[scale]
    shift = (1000 - full_wh) / 2 if scale == "padded" else np.zeros(2)
    coordinates = np.array(shares) * np.tile(full_wh, 2) + np.tile(shift, 2)
    x1, y1, x2, y2 = coordinates.round(4 if scale == "unit" else 0)
    numbers = {
        "xyxy": [x1, y1, x2, y2],
        "yxyx": [y1, x1, y2, x2],
        "xywh": [x1, y1, x2 - x1, y2 - y1],
    }[box_order]
    return [float(n) if scale == "unit" else int(n) for n in numbers]


def decode_image(address):
    head, _, data = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@dataclass
class FakeModel:
    """The fake model: coordinates, answer modes, and faults.

    `faults` are those of the next requests, one each; `always` is the fault of all others.
    """

    scale: str = "thousand"
    box_order: str = "xyxy"
    modes: tuple[str, ...] = ("tool", "schema", "json")
    empty_modes: tuple[str, ...] = ()  # modes that are accepted and answered without boxes
    faults: list[str] = field(default_factory=list)
    always: str = ""
    retry_after: str = "0.2"
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    active_requests: int = 0
    max_active_requests: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ending: threading.Event = field(default_factory=threading.Event)  # of the server

    def answer(self, path, body, headers):
        """Answer a request: returns status, headers and text."""
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            fault = self.faults.pop(0) if self.faults else self.always
        if fault == "slow":
            self.ending.wait()
        if fault.isdigit():
            extra = {"Retry-After": self.retry_after} if fault == "429" else {}
            message = f"status {fault} for {headers.get('authorization', '')}"
            return int(fault), extra, json.dumps({"error": {"message": message}})
        if fault == "html":
            return 200, {}, "<html>gateway</html>"
        if path.endswith("/chat/completions"):
            return self._chat(body, fault)
        return self._moondream(path.rpartition("/")[2], body, fault)

    # --- OpenAI chat completions

    def _chat(self, body, fault):
        mode = "tool" if "tools" in body else "schema" if "response_format" in body else "json"
        if mode not in self.modes:
            message = f"{body['model']} does not support {mode}s"
            return 400, {}, json.dumps({"error": {"message": message}})
        if refusal := _refused_parameter(body, fault):
            return 400, {}, json.dumps({"error": {"message": refusal}})
        if fault == "error in body":
            return 200, {}, json.dumps({"error": {"message": "no provider", "code": 503}})
        if fault == "quota":
            error = {"message": "You exceeded your quota", "code": "insufficient_quota"}
            return 429, {}, json.dumps({"error": error})
        if fault == "policy":
            error = {"message": "violates the policy", "code": "content_policy_violation"}
            return 400, {}, json.dumps({"error": error})
        message = self._message(body, mode, fault)
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        reason = {"limit": "length", "filter": "content_filter"}.get(fault, "stop")
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        choices = [] if fault == "no choices" else [choice]
        usage = {} if fault == "no usage" else {"usage": usage}
        return 200, {}, json.dumps({**reply, "choices": choices, **usage})

    def _message(self, body, mode, fault):
        content = body["messages"][0]["content"]
        images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if mode == "json" and "box" not in str(content[-1].get("text")):
            faulty = {"refusal": {"refusal": "I cannot."}, "empty": {"content": " "}}
            return {"content": " A monster in a hall. ", **faulty.get(fault, {})}
        text = "\n".join(part["text"] for part in content if part["type"] == "text")
        names = [line[3:-1] for line in text.splitlines() if line.startswith('- "')]
        image = decode_image(images[-1])
        size_wh = image.shape[1], image.shape[0]
        entries = [
            {"label": name, "box_2d": to_coordinates(shares, size_wh, self.scale, self.box_order)}
            for name in ([] if mode in self.empty_modes else names)
            for shares in boxes_in_image(image, name)
        ]
        return answer_message(entries, mode, fault)

    # --- Moondream

    def _moondream(self, what, body, fault):
        image = decode_image(body["image_url"])
        boxes = boxes_in_image(image, body.get("object", ""))
        if fault == "missing":
            return 200, {}, json.dumps({"request_id": "x"})
        if fault in ("no list", "no words"):
            key = {"detect": "objects", "point": "points", "query": "answer"}.get(what, what)
            return 200, {}, json.dumps({"request_id": "x", key: {} if fault == "no list" else " "})
        if fault == "outside":
            boxes = [[-0.004, 0.1, 0.5, 1.003], [0.2, -0.01, 1.01, 0.4]]
        sides = ("x_min", "y_min", "x_max", "y_max")
        answers = {
            "detect": {"objects": [dict(zip(sides, each, strict=True)) for each in boxes]},
            "point": {
                "points": [{"x": (x1 + x2) / 2, "y": (y1 + y2) / 2} for x1, y1, x2, y2 in boxes]
            },
            "caption": {"caption": " A monster in a hall. "},
            "query": {"answer": f"You asked: {body.get('question')}"},
        }
        return 200, {}, json.dumps({"request_id": "x", **answers[what]})


def _refused_parameter(body, fault):
    """Return what newer models of OpenAI say to a parameter that they do not take."""
    if "max_tokens" in body and fault in ("renamed", "renamed, no temperature"):
        return "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    if "temperature" in body and fault in ("no temperature", "renamed, no temperature"):
        return "Unsupported value: 'temperature' does not support 0.0 with this model."
    return ""


def answer_message(entries, mode, fault):
    """Make the message with the entries, with a fault if one is given."""
    text = json.dumps({"boxes": entries})
    if fault == "null":
        return {"content": None}
    if fault == "no arguments" and mode == "tool":
        call = {"id": "c", "type": "function", "function": {"name": "give_boxes", "arguments": ""}}
        return {"content": None, "tool_calls": [call]}
    if fault == "refusal":
        return {"content": None, "refusal": "I'm sorry, I can't help with that."}
    if fault in MALFORMED_ANSWERS:
        return {"content": MALFORMED_ANSWERS[fault](entries, text)}
    if mode != "tool":
        return {"content": text}
    call = {"id": "c", "type": "function", "function": {"name": "give_boxes", "arguments": text}}
    return {"content": None, "tool_calls": [call] * (2 if fault == "twice" else 1)}


def _with(entries, *more):
    return json.dumps({"boxes": [*entries, *more]})


def _named_sides(entries):
    sides = ("x1", "y1", "x2", "y2")
    named = [(e["label"], dict(zip(sides, e["box_2d"], strict=True))) for e in entries]
    return json.dumps([{"class": label, "bbox": box} for label, box in named])


MALFORMED_ANSWERS = {  # answers seen of real models: (entries, entries as valid JSON) -> content
    "sorry": lambda entries, text: "I'm sorry, but I can't see any picture [sic].",
    "empty": lambda entries, text: "",
    "none": lambda entries, text: '{"boxes": []}',
    "empty object": lambda entries, text: "{}",
    "null boxes": lambda entries, text: '{"boxes": null}',
    "prose": lambda entries, text: (
        f"Sure! Here [1] they are:\n```json\n{text}\n```\nAnything else?"
    ),
    "thought": lambda entries, text: f"<think>maybe {{'boxes': [1, 2]}}?</think>\n{text}",
    "cut": lambda entries, text: _with(entries, {"label": "designator", "box_2d": [1, 2, 34, 567]})[
        :-6
    ],
    "single quotes": lambda entries, text: str({"boxes": entries}),
    "no quotes": lambda entries, text: text.replace("]}]", "],}],").replace('"boxes"', "boxes"),
    "bare list": lambda entries, text: json.dumps(entries),
    "named sides": lambda entries, text: _named_sides(entries),
    "missing keys": lambda entries, text: json.dumps({"boxes": [{"label": "designator"}]}),
    "one without": lambda entries, text: _with(entries, {"label": "designator"}, {}),
    "code": lambda entries, text: "__import__('os').system('touch owned')",
    "wrong picture": lambda entries, text: _with(
        [{**e, "picture": "B"} for e in entries],
        {"label": "designator", "box_2d": [1, 1, 90, 90], "image": "A"},
    ),
    "strange label": lambda entries, text: _with(
        entries, {"label": "spaceship", "box_2d": [1, 1, 90, 90]}
    ),
    "other labels": lambda entries, text: json.dumps([{**e, "label": "Tank"} for e in entries]),
    "no labels": lambda entries, text: json.dumps([e["box_2d"] for e in entries]),
    "scores": lambda entries, text: _with([{**e, "confidence": 0.75} for e in entries]),
    "outside": lambda entries, text: _with(
        [{**e, "box_2d": [5000, 5000, 6000, 6000]} for e in entries]
    ),
}


@contextmanager
def serving(**options):
    """Serve a `FakeModel` at 127.0.0.1; its `url` is the address. A "slow" answer never comes."""
    model = FakeModel(**options)
    with listening(model):
        try:
            yield model
        finally:
            model.ending.set()


@contextmanager
def listening(model):
    """Serve `model` at 127.0.0.1; its `answer` returns status, headers and text of a POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with model.lock:
                model.active_requests += 1
                model.max_active_requests = max(model.max_active_requests, model.active_requests)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, extra, text = model.answer(self.path, body, headers)
            with model.lock:
                model.active_requests -= 1
            try:
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", **extra}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has closed the connection

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
