"""A server that speaks OpenAI's chat protocol and Moondream's, sees, and misbehaves when told to.

It sees the rectangles of the colours `annotate.vlm.coordinates.RECTANGLE_COLOURS`, and on frames of
the bundled clip the boxes of the ground truth, by the name of the category.
"""

import base64
import io
import json
import threading
import time
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
FRAMES = (0, 30, 60)
KEY = "sk-a-key-that-nobody-may-see"


def truth(frame, name):
    """Boxes of a category on a frame of the bundled clip, xyxy in pixels."""
    [category] = [each["id"] for each in TRUTH["categories"] if each["name"] == name]
    found = [a for a in TRUTH["annotations"] if a["image_id"] == frame]
    boxes = [a["bbox"] for a in found if a["category_id"] == category]
    return [[x, y, x + w, y + h] for x, y, w, h in boxes]


def _small(image):
    return cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA).astype(float)


SMALL = {f.index: _small(f.image) for f in reader.frames_at(CLIPS / "demo.mp4", FRAMES)}


def see(image, name):
    """Boxes of what a name says, as shares of the picture."""
    height, width = image.shape[:2]
    colour = RECTANGLE_COLOURS.get(name.removesuffix(" rectangle"))
    if colour:
        there = np.abs(image.astype(int) - colour).max(2) < 40
        if not there.any():
            return []
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        return [(box / [width, height, width, height]).tolist()]
    name = {"person": "ShotgunGuy"}.get(name, name)
    if name not in {each["name"] for each in TRUTH["categories"]}:
        return []
    shown = _small(image)
    frame = min(SMALL, key=lambda index: np.abs(SMALL[index] - shown).mean())
    return [(np.array(box) / [800, 600, 800, 600]).tolist() for box in truth(frame, name)]


def counted(shares, size_wh, counts, order):
    """Shares of a picture as a model of that kind would say them."""
    wh = np.array(size_wh, float)
    whole = {
        "unit": np.ones(2),
        "thousand": np.full(2, 1000.0),
        "999": np.full(2, 999.0),
        "sent": wh,
        "longest": 640 * wh / wh.max(),
        "padded": 1000 * wh / wh.max(),
        "shortest": 768 * wh / wh.min(),
        "area": 700 * wh / np.sqrt(wh.prod()),
    }[counts]
    shift = (1000 - whole) / 2 if counts == "padded" else np.zeros(2)
    placed = np.array(shares) * np.tile(whole, 2) + np.tile(shift, 2)
    x1, y1, x2, y2 = placed.round(4 if counts == "unit" else 0)
    numbers = {
        "xyxy": [x1, y1, x2, y2],
        "yxyx": [y1, x1, y2, x2],
        "xywh": [x1, y1, x2 - x1, y2 - y1],
    }[order]
    return [float(n) if counts == "unit" else int(n) for n in numbers]


def decoded(address):
    head, _, data = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@dataclass
class Model:
    """How the server counts and speaks; `faults` befall the next requests, one each."""

    counts: str = "thousand"
    order: str = "xyxy"
    ways: tuple[str, ...] = ("tool", "schema", "json")
    blind: tuple[str, ...] = ()  # ways in which it is taken, and sees nothing
    faults: list[str] = field(default_factory=list)
    always: str = ""
    retry_after: str = "0.2"
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path, body, headers):
        """(status, headers, text) for a request."""
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            fault = self.faults.pop(0) if self.faults else self.always
        if fault == "slow":
            time.sleep(4)
        if fault.isdigit():
            extra = {"Retry-After": self.retry_after} if fault == "429" else {}
            said = f"status {fault} for {headers.get('authorization', '')}"
            return int(fault), extra, json.dumps({"error": {"message": said}})
        if fault == "html":
            return 200, {}, "<html>gateway</html>"
        if path.endswith("/chat/completions"):
            return self._chat(body, fault)
        return self._moondream(path.rpartition("/")[2], body, fault)

    # --- OpenAI chat completions

    def _chat(self, body, fault):
        way = "tool" if "tools" in body else "schema" if "response_format" in body else "json"
        if way not in self.ways:
            said = f"{body['model']} does not support {way}s"
            return 400, {}, json.dumps({"error": {"message": said}})
        if "max_tokens" in body and fault == "renamed":
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {}, json.dumps({"error": {"message": said}})
        message = self._message(body, way, fault)
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        choices = [] if fault == "no choices" else [choice]
        return 200, {}, json.dumps({**reply, "choices": choices, "usage": usage})

    def _message(self, body, way, fault):
        content = body["messages"][0]["content"]
        images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if way == "json" and "box" not in str(content[-1].get("text")):
            said = {"refusal": {"refusal": "I cannot."}, "empty": {"content": " "}}
            return {"content": " A monster in a hall. ", **said.get(fault, {})}
        text = "\n".join(part["text"] for part in content if part["type"] == "text")
        names = [line[3:-1] for line in text.splitlines() if line.startswith('- "')]
        image = decoded(images[-1])
        size_wh = image.shape[1], image.shape[0]
        entries = [
            {"label": name, "box_2d": counted(shares, size_wh, self.counts, self.order)}
            for name in ([] if way in self.blind else names)
            for shares in see(image, name)
        ]
        return spoken(entries, way, fault)

    # --- Moondream

    def _moondream(self, what, body, fault):
        image = decoded(body["image_url"])
        found = see(image, body.get("object", ""))
        if fault == "missing":
            return 200, {}, json.dumps({"request_id": "x"})
        if fault == "outside":
            found = [[-0.004, 0.1, 0.5, 1.003], [0.2, -0.01, 1.01, 0.4]]
        sides = ("x_min", "y_min", "x_max", "y_max")
        answers = {
            "detect": {"objects": [dict(zip(sides, each, strict=True)) for each in found]},
            "point": {
                "points": [{"x": (x1 + x2) / 2, "y": (y1 + y2) / 2} for x1, y1, x2, y2 in found]
            },
            "caption": {"caption": " A monster in a hall. "},
            "query": {"answer": f"You asked: {body.get('question')}"},
        }
        return 200, {}, json.dumps({"request_id": "x", **answers[what]})


def spoken(entries, way, fault):
    """A message that gives the entries, well or badly."""
    whole = json.dumps({"boxes": entries})
    if fault == "refusal":
        return {"content": None, "refusal": "I'm sorry, I can't help with that."}
    if fault in BADLY:
        return {"content": BADLY[fault](entries, whole)}
    if way != "tool":
        return {"content": whole}
    call = {"id": "c", "type": "function", "function": {"name": "give_boxes", "arguments": whole}}
    return {"content": None, "tool_calls": [call] * (2 if fault == "twice" else 1)}


def _with(entries, *more):
    return json.dumps({"boxes": [*entries, *more]})


def _named_sides(entries):
    sides = ("x1", "y1", "x2", "y2")
    named = [(e["label"], dict(zip(sides, e["box_2d"], strict=True))) for e in entries]
    return json.dumps([{"class": label, "bbox": box} for label, box in named])


BADLY = {  # what models really answer: of the entries, and of them as sound JSON
    "sorry": lambda entries, whole: "I'm sorry, but I can't see any picture [sic].",
    "empty": lambda entries, whole: "",
    "none": lambda entries, whole: '{"boxes": []}',
    "prose": lambda entries, whole: (
        f"Sure! Here [1] they are:\n```json\n{whole}\n```\nAnything else?"
    ),
    "thought": lambda entries, whole: f"<think>maybe {{'boxes': [1, 2]}}?</think>\n{whole}",
    "cut": lambda entries, whole: _with(
        entries, {"label": "designator", "box_2d": [1, 2, 34, 567]}
    )[:-6],
    "single quotes": lambda entries, whole: str({"boxes": entries}),
    "no quotes": lambda entries, whole: whole.replace("]}]", "],}],").replace('"boxes"', "boxes"),
    "bare list": lambda entries, whole: json.dumps(entries),
    "named sides": lambda entries, whole: _named_sides(entries),
    "missing keys": lambda entries, whole: json.dumps({"boxes": [{"label": "designator"}]}),
    "one without": lambda entries, whole: _with(entries, {"label": "designator"}, {}),
    "code": lambda entries, whole: "__import__('os').system('touch owned')",
    "wrong picture": lambda entries, whole: _with(
        [{**e, "picture": "B"} for e in entries],
        {"label": "designator", "box_2d": [1, 1, 90, 90], "image": "A"},
    ),
    "strange label": lambda entries, whole: _with(
        entries, {"label": "spaceship", "box_2d": [1, 1, 90, 90]}
    ),
    "scores": lambda entries, whole: _with([{**e, "confidence": 0.75} for e in entries]),
    "outside": lambda entries, whole: _with(
        [{**e, "box_2d": [5000, 5000, 6000, 6000]} for e in entries]
    ),
}


def serving(**how):
    """A Model at 127.0.0.1, `url` says where."""
    return listening(Model(**how))


@contextmanager
def listening(model):
    """`model` at 127.0.0.1: its `answer` to what is posted is a status, headers and a text."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with model.lock:
                model.busy += 1
                model.busiest = max(model.busiest, model.busy)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, extra, text = model.answer(self.path, body, headers)
            with model.lock:
                model.busy -= 1
            try:
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", **extra}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked had given up

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
