"""Fill the HTML templates of this package with text and data.

A template has `$title` and `$data`, and other values by name; `$$` is a dollar sign.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template
from typing import Any


def fill_template(template_name: str, title: str, record: Any, **values: str) -> str:
    """Fill an HTML template; `record` becomes the JSON that the page's script reads."""
    path = Path(__file__).with_name(template_name)
    template = Template(path.read_text(encoding="utf-8"))
    # neither a title nor a value in the record can end the element that it is in
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.substitute(title=html.escape(title, quote=False), data=data, **values)
