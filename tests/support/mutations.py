"""Change valid inputs at random, and run a reader on them within limits: for `tests/fuzz`.

A test draws from `mutated`, `json_bytes`, `mutated_text` or `damaged`, calls a reader by `outcome`,
and checks that what it gives accounts for every record. `FUZZ_EXAMPLES=20000 pytest tests/fuzz`
tries more, and other, examples than the 200 that are the same on every machine.
"""

import copy
import json
import os
import re
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st

from annotate.errors import AnnotateError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
fuzz = settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

_CPU_SECONDS = 10.0
_MEMORY_BYTES = 2**30

_NESTED = "<nested>"  # becomes brackets in brackets, deeper than any parser goes
_DEPTH = 14_000
NUMBERS = (
    *(0, 1, -1, 2, 3.0, 0.5, -0.5, 1e-9, 1e8, -1e8, 1e300, 2**31, 2**63, -(2**63), 10**400),
    *(float("nan"), float("inf"), float("-inf"), -0.0, True, False),
)
TEXTS = (
    *("", " ", "\n", "a\nb", "\t", "\0", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\ud800", "é"),
    *(
        "e\u0301",
        "标签",
        "مرحبا",
        "🎯",
        "Ⅷ",
        "١٢",
        "nan",
        "inf",
        "1e8",
        "-1",
        "0.5",
        "None",
        "true",
    ),
    *("../../x", "/", "C:\\x", "a.png", "=1+1", "{}", "[]", '"', "'", "%s", "x" * 5000, _NESTED),
)


@contextmanager
def limits():
    """Raise in this process what takes over 10 seconds of CPU, or 1 GB more memory than now."""

    def stop(*_):
        raise TimeoutError(f"more than {_CPU_SECONDS:g} s of CPU")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_BYTES, hard))
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(call):
    """Return what `call` returns; None for an error of ours in one line. Any other error fails."""
    try:
        with limits():
            result = call()
    except AnnotateError as error:
        event("refused")
        assert len(str(error).splitlines()) == 1, f"not one line: {error!r}"
        return None
    event("answered")
    return result


def odd_values():
    """Draw a value that no reader expects: of any type, and of any script."""
    odd = st.sampled_from([None, {}, [], *NUMBERS, *TEXTS])
    return (
        odd | st.lists(odd, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), odd, max_size=2)
    )


@st.composite
def mutated(draw, valid, most=3):
    """Draw a copy of a tree of dicts and lists, with up to `most` changes anywhere in it."""
    root = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(0, most))):
        container, key = draw(st.sampled_from(_places(root)))
        draw(st.sampled_from(_CHANGES))(draw, root, container, key)
    return root[0] if root else None


def _places(container):
    """List each place in a tree: its container, and its key or index."""
    entries = [*(container.items() if isinstance(container, dict) else enumerate(container))]
    places = []
    for key, value in [*entries[:6], *entries[6:][-6:]]:  # of a long list, both ends
        places.append((container, key))
        if isinstance(value, dict | list):
            places += _places(value)
    return places or [([None], 0)]


def _drop(draw, root, container, key):
    if container is not root:
        del container[key]


def _replace(draw, root, container, key):
    container[key] = draw(odd_values())


def _retype(draw, root, container, key):
    value = container[key]
    container[key] = draw(st.sampled_from([str(value), [value], {"0": value}, [value, value]]))


def _renumber(draw, root, container, key):
    if isinstance(value := container[key], int | float):
        others = [-value, value * 10**8, value + 1, f" {value} ", *NUMBERS]
        container[key] = draw(st.sampled_from(others))
    else:
        _replace(draw, root, container, key)


def _duplicate(draw, root, container, key):
    value = copy.deepcopy(container[key])
    if isinstance(container, list) and container is not root:
        container.insert(draw(st.integers(0, len(container))), value)
    elif isinstance(container, dict):
        container[draw(st.sampled_from([str(key).upper(), f"{key}s", *TEXTS]))] = value


def _copy_from_elsewhere(draw, root, container, key):
    other, other_key = draw(st.sampled_from(_places(root)))
    container[key] = copy.deepcopy(other[other_key])


def _reorder(draw, root, container, key):
    if isinstance(container, list):
        container[:] = draw(st.permutations(container))
    else:
        container[key] = container.pop(key)


_CHANGES = (_drop, _replace, _retype, _renumber, _duplicate, _copy_from_elsewhere, _reorder)


@st.composite
def json_bytes(draw, valid, most=3):
    """Draw the JSON of a changed tree; now and then damaged, or in another encoding."""
    tree = draw(mutated(valid, most))
    text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
    text = _nested(text.replace(f'"{_NESTED}"', _NESTED))
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "latin-1"]))
    data = text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    return draw(damaged(data)) if draw(st.integers(0, 9)) == 0 else data


_WORD = re.compile(r"[\w.+-]+|[^\w\s]|\n")


@st.composite
def mutated_text(draw, valid, most=3):
    """Draw a text with up to `most` changes of its lines and words."""
    text = valid
    for _ in range(draw(st.integers(0, most))):
        lines, words = text.splitlines(keepends=True), list(_WORD.finditer(text))
        change = draw(st.sampled_from(["drop", "twice", "swap", "word", "word", "word", "cut"]))
        if change == "cut" or not words:
            text = text[: draw(st.integers(0, len(text)))]
        elif change == "word":
            word = draw(st.sampled_from(words))
            odd = draw(st.sampled_from(["", *map(str, NUMBERS), *TEXTS, *{w[0] for w in words}]))
            text = text[: word.start()] + odd + text[word.end() :]
        else:
            number = draw(st.integers(0, len(lines) - 1))
            if change != "twice":
                line = lines.pop(number)
            if change != "drop":
                lines.insert(
                    draw(st.integers(0, len(lines))), line if change == "swap" else lines[number]
                )
            text = "".join(lines)
    return text


def text_bytes(text):
    """Encode a changed text as UTF-8, which is not valid where the text has surrogates."""
    return _nested(text).encode("utf-8", "surrogatepass")


def _nested(text):
    return text.replace(_NESTED, "[" * _DEPTH + "]" * _DEPTH)


@st.composite
def damaged(draw, data, most=3):
    """Draw bytes with up to `most` changes: flipped, cut, filled, removed, doubled, inserted."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(data)))
        end = min(start + draw(st.sampled_from([1, 2, 8, 100, 5000])), len(data))
        change = draw(
            st.sampled_from(["flip", "flip", "cut", "fill", "remove", "double", "insert"])
        )
        if change == "flip":
            data[start:end] = (
                bytes(b ^ draw(st.integers(1, 255)) for b in data[start:end][:4])
                + data[start:end][4:]
            )
        elif change == "cut":
            del data[start:]
        elif change == "fill":
            data[start:end] = bytes([draw(st.sampled_from([0, 255]))]) * (end - start)
        elif change == "remove":
            del data[start:end]
        elif change == "double":
            data[start:start] = data[start:end]
        else:
            data[start:start] = draw(st.binary(max_size=16))
    return bytes(data)
