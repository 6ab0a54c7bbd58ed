"""Run the units of a batch in a worker: a process, or an actor of Ray."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import __version__
from annotate.batch.clips import name_clip
from annotate.batch.plan import failure_reason
from annotate.batch.stages import Stage, current_key
from annotate.batch.stores.bucket import is_url
from annotate.batch.stores.remote_clips import (
    RemoteClip,
    find_clip,
    local_copy,
    with_address,
)
from annotate.batch.stores.store import BatchStore
from annotate.errors import AnnotateError, OutputError, ResultsDiffer

_REPORTED = ("numpy", "opencv-python-headless", "av", "onnxruntime", "openvino", "torch")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}


class StopRequested(Exception):
    """The driver asks a worker to stop: what the clip has so far is kept."""


@dataclass(frozen=True)
class Task:
    """What a worker is to do: run a stage over a clip, whose key must still be this one."""

    key: str
    clip: str
    stage: int = 0  # position in the worker's stages


@dataclass(frozen=True)
class Outcome:
    """What came of a task. `error` is "" where the result is there; `is_first` if it is new."""

    task: Task
    frames: int = 0  # that this run processed
    seconds: float = 0.0
    is_first: bool = False
    error: str = ""
    is_fatal: bool = False  # the error would meet every clip


@dataclass(frozen=True)
class StageOutput:
    """A stage, and where its results go."""

    stage: Stage
    store: BatchStore


@dataclass
class UnitRunner:
    """Runs tasks one after the other, with the models loaded once."""

    outputs: Sequence[StageOutput]
    _ready: set[int] = field(default_factory=set)

    def prepare(self) -> None:
        """Load the model of the first stage.

        Raises:
            AnnotateError: something is missing.
        """
        self._prepare(0)

    def check(self, task: Task) -> None:
        """Check that this machine sees the clip, prompts and weights of a task as planned.

        Raises:
            AnnotateError: it does not.
        """
        clip = find_clip(task.clip) if is_url(task.clip) else Path(task.clip)
        _check_key(self.outputs[task.stage].stage, clip, task)

    def _prepare(self, number: int) -> None:
        if number not in self._ready:
            self.outputs[number].stage.ready()
            self._ready.add(number)

    def run(self, task: Task, beat: Callable[[int], None] = lambda frames: None) -> Outcome:
        """Run a task; `beat` gets the number of frames so far, after each frame.

        Raises:
            StopRequested: as `beat` does; the next run of the task continues.
        """
        start, frames = time.monotonic(), 0

        def progress(_: Any) -> None:
            nonlocal frames
            frames += 1
            beat(frames)

        store = self.outputs[task.stage].store
        is_first, is_fatal, error = False, False, ""
        try:
            self._prepare(task.stage)
            is_first = self._run(task, progress)
        except (AnnotateError, OSError) as raised:
            error, is_fatal = failure_reason(raised), _stops_all(raised)
        except StopRequested:
            raise
        except Exception as raised:  # of a plugin or a decoder: this clip fails, the others go on
            error = failure_reason(raised)
            store.log({"clip": task.clip, "traceback": traceback.format_exc()})
        error = with_address(error, task.clip)
        seconds = round(time.monotonic() - start, 3)
        outcome = Outcome(task, frames, seconds, is_first, error, is_fatal)
        record = {"key": task.key, "clip": task.clip, "frames": frames, "seconds": seconds}
        store.log({**record, "first": is_first, "error": error})
        return outcome

    def _run(self, task: Task, progress: Callable[[Any], None]) -> bool:
        stage, store = self.outputs[task.stage].stage, self.outputs[task.stage].store
        with store.attempt(task.key) as folder, local_copy(task.clip, folder) as clip:
            _check_key(stage, clip, task)
            draft = stage.run(clip, folder, progress)
            _check_key(stage, clip, task)
            if is_url(task.clip):
                draft = name_clip(draft, task.clip)
            return store.commit(task.key, draft)


def _stops_all(error: Exception) -> bool:
    """Return whether an error would meet every other clip too: the output cannot be written."""
    if isinstance(error, OSError):
        return error.errno in _OUTPUT_ERRORS
    return isinstance(error, OutputError) and not isinstance(error, ResultsDiffer)


def _check_key(stage: Stage, clip: Path | RemoteClip, task: Task) -> None:
    """Check that a clip, its inputs and the weights are those that the driver planned with."""
    if current_key(stage, clip) != task.key:
        raise AnnotateError(
            f"{task.clip}: it, or the weights or prompts for it, changed meanwhile or differ on "
            f"{socket.gethostname()}: give the command again"
        )


def limit_threads(count: int) -> None:
    """Let numerical libraries use `count` threads; those imported later are limited as well."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(count)
    import cv2

    cv2.setNumThreads(count)  # reads no variable


def environment() -> Mapping[str, str]:
    """Return the versions of Python, annotate and the packages that results may depend on."""
    versions = {"python": platform.python_version(), "annotate": __version__}
    for name in _REPORTED:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
