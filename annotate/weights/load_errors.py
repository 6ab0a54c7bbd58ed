"""Errors of one line for weights that a foreign package cannot load."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotate.errors import AnnotateError, MissingPackage, WeightsError

DAMAGED = "the file is damaged, or of another kind"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NOISE = re.compile(r"^(Exception from |Check '|$)")  # places in OpenVINO's own source, empty lines
_SENTENCE_END = re.compile(r"(?<=[a-z)])[.!] (?=[A-Z])")
_MAX_REASON = 240  # characters


@contextmanager
def one_line_errors(path: Path, problem: str, cure: str = "") -> Iterator[None]:
    """Turn any exception of a package that loads or runs weights into an error of one line.

    The line is `path`, `problem` ("cannot be used by ultralytics"), the reason, and `cure`.

    Raises:
        MissingPackage: a module that the file needs is not installed.
        WeightsError: the package refused the file, for whatever reason.
    """
    try:
        yield
    except AnnotateError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{path} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # packages raise exceptions of many types
        raise WeightsError(
            f"{path} {problem}: {load_reason(error)}" + (f"; {cure}" if cure else "")
        ) from error


def load_reason(error: BaseException) -> str:
    """Return why a package failed, in one line without colour codes and without its advice.

    Examples:
        >>> load_reason(RuntimeError("Exception from core.cpp:84:\\nIncorrect weights in file!"))
        'Incorrect weights in file'
        >>> load_reason(KeyError(174812789))
        'the file is damaged, or of another kind'
    """
    text = _ANSI.sub("", str(error)).replace("ERROR ❌️ ", "")
    if "weights_only" in text or "mmap can only" in text:
        return DAMAGED  # PyTorch advises to run the code that is in the file
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if not _NOISE.match(line)]
    if isinstance(error, LookupError) or not lines or " " not in lines[0]:
        return DAMAGED
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    reason = reason.partition(" Use an official ")[
        0
    ]  # ultralytics: any other model, in place of it
    reason = _SENTENCE_END.split(reason)[0].rstrip(".! ")
    return textwrap.shorten(reason, _MAX_REASON, placeholder=" ...")
