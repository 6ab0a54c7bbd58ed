"""Remove a model's thoughts from the text of its answer.

Models mark their thoughts in many ways: `<think>...</think>`, `[THINK]...[/THINK]`, `<|channel|>
analysis`. Some servers cut the opening mark off, so that only the end is marked. A draft in the
thoughts is not the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORDS = (
    "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|rationale"
    "|chain[ _]of[ _]thought|cot|monologue|deliberation|draft|思考"
)
_OPEN, _CLOSE = r"[<\[◁＜][|｜]?\s*", r"\s*[|｜]?[>\]▷＞]"
_PREFIX = r"(?:[\w.▁-]+[:_▁-]|ant)?"
_END = r"(?:/\s*|end[_▁ -](?:of[_▁ -])?)"
_THOUGHTS_END = re.compile(
    rf"{_OPEN}(?:/\s*{_PREFIX}|{_END})(?:{_WORDS}){_CLOSE}|<unused95>|<channel\|>", re.IGNORECASE
)
_ANSWER_START = re.compile(
    rf"{_OPEN}(?:start[_▁ ]|begin[_▁ ]of[_▁ ])?(?:final[_ ])?(?:answer|response|solution|output)"
    rf"{_CLOSE}|<\|channel\|>\s*final\b|\bassistantfinal|<\|start_header_id\|>\s*final\b"
    r"|^[\W_]*(?:(?:my|the) )?final (?:answer|response|output|result)[*_ ]*:"
    r"|^[\W_]*(?:answer|here is my (?:answer|response))[*_ ]*:",
    re.IGNORECASE | re.MULTILINE,
)
_THOUGHTS_START = re.compile(
    rf"{_OPEN}(?!/|end[_▁ -]){_PREFIX}(?:{_WORDS})(?:\s[^<>\[\]]{{0,80}})?{_CLOSE}"
    r"|<unused94>|<\|channel\|?>\s*(?:analysis|commentary|thought)\b",
    re.IGNORECASE,
)


def without_thoughts(text: str) -> str:
    """Return the part of an answer that is no thought: what follows the last end of thoughts.

    Thoughts between an answer and the end of the text are removed as well, and so are thoughts that
    do not end. A heading such as "Final answer:" ends the thoughts before it.

    Examples:
        >>> without_thoughts("Perhaps [1, 2, 3, 4]? No.</think> []").strip()
        '[]'
    """
    kept: list[str] = []
    position, is_thought = 0, False
    for start, end, kind in _marks(text):
        if start < position:
            continue
        if not is_thought:
            kept.append(text[position:start])
        if kind == "start":
            is_thought = True
        else:
            if kind == "answer" or not is_thought:
                kept.clear()  # what came before was thought as well: its start was not marked
            is_thought = False
        position = end
    if not is_thought:
        kept.append(text[position:])
    return "\n".join(kept)


def _marks(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and kind of each mark, in order: "start", "end" or "answer"."""
    kinds = (("start", _THOUGHTS_START), ("end", _THOUGHTS_END), ("answer", _ANSWER_START))
    marks = [
        (match.start(), match.end(), kind)
        for kind, pattern in kinds
        for match in pattern.finditer(text)
        if kind != "answer" or re.search(r"[\[{(]", text[match.end() :])
    ]
    yield from sorted(marks)
