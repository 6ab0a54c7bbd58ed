"""A map as one self-contained page: pictures, places, and the means to choose among them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.atlas import Atlas, ticks
from annotate.drafts import new_file
from annotate.lines import Header
from annotate.sprites import Sprites

NAME = "index.html"
_FULL = 65535  # a place on the plane is kept to so fine a grid


def write(atlas: Atlas, sprites: Sprites, folder: Path, title: str) -> None:
    """Write `index.html`; nothing on it is fetched from anywhere.

    `sprites` are the thumbnails of the atlas's rows, in their order.

    Raises:
        OutputError: nothing can be written there.
    """
    page = Template(Path(__file__).with_name("atlas.html").read_text(encoding="utf-8"))
    told = in_script(_told(atlas, sprites, title))
    with new_file(folder / NAME) as draft:
        draft.write_text(page.substitute(title=in_text(title), data=told), encoding="utf-8")


def in_script(record: Any) -> str:
    """A record as JSON that cannot end the element it stands in."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def in_text(text: str) -> str:
    """Text as HTML shows it."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _told(atlas: Atlas, sprites: Sprites, title: str) -> dict[str, Any]:
    rows = np.clip(np.rint(atlas.xy * _FULL), 0, _FULL).astype(np.uint16)
    counted, per_second = _ticks(atlas)
    clips = [
        {"name": name, "facts": facts, "ticks_a_second": rate}
        for (name, facts), rate in zip(atlas.clips.items(), per_second, strict=True)
    ]
    header = json.loads(Header("map", atlas.settings).to_json())
    return {
        "title": title,
        "clips": clips,
        "header": header,
        "cell": sprites.cell_wh,
        "columns": sprites.columns,
        "rows": sprites.rows,
        "x": _packed(rows[:, 0]),
        "y": _packed(rows[:, 1]),
        "clip": _packed(atlas.clip.astype(np.uint16)),
        "frame": _packed(atlas.frame.astype(np.uint32)),
        "ticks": _packed(np.array(counted, np.float64)),
        "pages": [base64.b64encode(page).decode() for page in sprites.pages()],
    }


def _ticks(atlas: Atlas) -> tuple[list[int], list[int]]:
    """When each row is, in its clip's ticks, and how many of them a second has, clip by clip."""
    counted = [0] * len(atlas.seconds)
    per_second = []
    for name in atlas.names:
        rows = atlas.of_clip(name)
        times: Sequence[Fraction] = [atlas.seconds[row] for row in rows]
        mine, rate = ticks(times)
        per_second.append(rate)
        for row, tick in zip(rows, mine, strict=True):
            counted[row] = tick
    return counted, per_second


def _packed(numbers: npt.NDArray[Any]) -> str:
    """Numbers as little-endian bytes in base64."""
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()
