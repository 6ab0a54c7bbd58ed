"""Workers that are actors of Ray: on this machine, or on the nodes of a running cluster.

Only tasks and outcomes go through Ray. Actors are never restarted by it, and no result is in its
object store: what a dead node held is in the output folder or is computed again. Without an address
a cluster of this machine alone is started, on the loopback interface, without a dashboard and
without reports to Ray's makers.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from annotate.batch.driver import Event
from annotate.batch.worker import (
    Outcome,
    StageOutput,
    StopRequested,
    Task,
    UnitRunner,
    environment,
    limit_threads,
)
from annotate.errors import AnnotateError, BatchError, needs
from annotate.items.records import Header

_BEAT_SECONDS = 5.0  # between questions to an actor how far it is
_HEAD_SECONDS = 15  # without the head of the cluster, after which the driver ends
_RAY_HEAD_SECONDS = 30  # after which Ray would end it, with a text of its own
_OBJECT_STORE_BYTES = 100 * 2**20  # the least that Ray takes, or nearly: nothing is put into it
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or a warning in each actor
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(_RAY_HEAD_SECONDS),
}
_PORT = re.compile(r":\d+$")  # at the end of an address; others are for Ray to find
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # nodes are at 127.0.0.1


class UnitActor:
    """What runs in a process of a node: tasks on one thread, questions on another."""

    def __init__(self, outputs: Sequence[StageOutput], threads: int, folder: str) -> None:
        limit_threads(threads)
        with suppress(OSError):  # then a relative path is missing, which `prepare` names
            os.chdir(folder)
        self._runner = UnitRunner(outputs)
        self._frames = 0
        self._is_stopping = threading.Event()

    def prepare(self, sample: Task, token: str) -> Mapping[str, Any] | AnnotateError:
        """Check the output, the first clip and the model; returns a report, or what is missing."""
        node = socket.gethostname()
        try:
            for output in self._runner.outputs:
                output.store.check_shared(token)
            self._runner.prepare()
            self._runner.check(sample)
        except (AnnotateError, OSError) as error:
            return BatchError(f"node {node}: {error}")
        headers = [output.stage.header().to_json() for output in self._runner.outputs]
        return {"node": node, "environment": environment(), "headers": headers}

    def run(self, task: Task) -> Outcome | None:
        """Run a task; None if it was stopped."""
        self._frames = 0
        try:
            return self._runner.run(task, self._beat)
        except StopRequested:
            return None

    def _beat(self, frames: int) -> None:
        self._frames = frames
        if self._is_stopping.is_set():
            raise StopRequested

    def frames(self) -> int:
        """Return the number of frames that the task has so far."""
        return self._frames

    def stop(self) -> None:
        """Let the task end after its current frame."""
        self._is_stopping.set()


class RayWorker:
    """An actor, seen from the driver; `pending` maps what it was asked to the reference."""

    def __init__(self, actor: Any, ray: Any) -> None:
        self.actor, self._ray = actor, ray
        self.node = ""
        self.pending: dict[str, Any] = {}
        self.frames = 0
        self.asked = time.monotonic()

    def give(self, task: Task) -> None:
        """Send a task."""
        self.frames = 0
        self.pending["run"] = self.actor.run.remote(task)

    def stop(self) -> None:
        """Ask the actor to end after the current frame."""
        self.pending["stop"] = self.actor.stop.remote()

    def kill(self) -> None:
        """End the actor at once."""
        self._ray.kill(self.actor, no_restart=True)

    def ask(self) -> None:
        """Ask a busy actor for its progress, now and then."""
        is_due = time.monotonic() - self.asked >= _BEAT_SECONDS
        if is_due and "run" in self.pending and "frames" not in self.pending:
            self.pending["frames"] = self.actor.frames.remote()
            self.asked = time.monotonic()


@contextmanager
def _without_api_server(ray: Any) -> Iterator[None]:
    """Start a cluster without Ray's API server.

    With the dashboard off, all it does is to report usage, and although reports are off, too, it
    asks the network which cloud it is in. To Ray, this is a server that could not be started.
    """
    services = ray._private.services
    start = getattr(services, "start_api_server", None)
    services.start_api_server = lambda *given, **options: (None, None)
    try:
        yield
    finally:
        services.start_api_server = start


def _join(ray: Any, address: str) -> None:
    """Join a cluster, or start one; a start that takes too long is tried once more."""
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False}
    if not address:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # it may have been imported before
    elif _PORT.search(address) and "//" not in address and not _Head(address).ask():
        # Ray would wait for minutes, and print that it does
        raise BatchError(f"no Ray cluster at {address}: nothing answers there: start one")
    logging.getLogger("ray").setLevel(logging.ERROR)
    for tries_left in (1, 0):
        try:
            with _without_api_server(ray):
                ray.init(**options, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises this very class
            ray.shutdown()
            if address or not tries_left:
                reason, place = str(error).strip().splitlines()[0], address or "this machine"
                raise BatchError(f"no Ray cluster at {place}: {reason}") from None


class _Head:
    """Watches the head of a cluster: whether something listens where it is."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._last_seen = self._asked = time.monotonic()

    def lost_seconds(self) -> float:
        """Return for how long nothing has answered; 0 while the head is there."""
        if time.monotonic() - self._asked >= _BEAT_SECONDS or self._asked > self._last_seen:
            self.ask()
        return self._asked - self._last_seen

    def ask(self) -> bool:
        """Return whether something answers now."""
        self._asked = time.monotonic()
        host, _, port = self.address.replace("[", "").replace("]", "").rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), 1):
            self._last_seen = self._asked
        return self._asked == self._last_seen


class RayEngine:
    """Starts an actor in each slot of a cluster: a CPU core, or a share of a GPU.

    Nodes that join later get actors too. `address` is that of a running cluster, "" for one of this
    machine alone; `gpus` is the share of a GPU that each actor gets.

    Raises:
        MissingPackage: Ray is not installed.
        BatchError: no cluster is there.
    """

    def __init__(
        self, outputs: Sequence[StageOutput], sample: Task, address: str = "", gpus: float = 0
    ) -> None:
        os.environ.update(_VARIABLES if address else {**_VARIABLES, **_LOOPBACK})
        self._ray = ray = needs("ray")
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            _join(ray, address)
        self._actor_class = ray.remote(UnitActor)
        self._outputs, self._sample, self._gpus = tuple(outputs), sample, gpus
        self._workers: list[RayWorker] = []
        self._head = _Head(ray.get_runtime_context().gcs_address)
        self._is_headless = False
        self._slots, self._counted = 0, time.monotonic()
        self._token = uuid.uuid4().hex
        for output in outputs:
            output.store.write_token(self._token)

    @property
    def slots(self) -> int:
        """The number of actors that the cluster has room for, at least one.

        It is asked now and then. Without the head, for which Ray would wait, it is those that there
        are.
        """
        if time.monotonic() - self._counted < _BEAT_SECONDS and self._slots:
            return self._slots
        if not self._head.ask():
            return len(self._workers)
        self._counted = time.monotonic()
        resources = self._ray.cluster_resources()
        room = resources.get("GPU", 0) / self._gpus if self._gpus else resources.get("CPU", 0)
        self._slots = max(int(room), 1)
        return self._slots

    def start(self) -> RayWorker:
        """Start an actor wherever there is room."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_restarts": 0, "max_concurrency": 2}
        actor = self._actor_class.options(**options).remote(self._outputs, 1, str(Path.cwd()))
        worker = RayWorker(actor, self._ray)
        worker.pending["ready"] = actor.prepare.remote(self._sample, self._token)
        self._workers.append(worker)
        return worker

    def wait(self, seconds: float) -> list[Event]:
        """Wait for answers of actors, at most so long.

        Raises:
            BatchError: the head of the cluster is gone; after that, all actors count as dead.
        """
        if self._is_headless:
            return [self._forget(worker, "without a head") for worker in list(self._workers)]
        if (lost := self._head.lost_seconds()) > _HEAD_SECONDS:
            self._is_headless = True
            raise BatchError(
                f"the head of the Ray cluster at {self._head.address} has not answered for "
                f"{lost:.0f} s: start the cluster, and give the command again"
            )
        for worker in self._workers:
            worker.ask()
        asked = {ref: (w, what) for w in self._workers for what, ref in w.pending.items()}
        if not asked:
            time.sleep(seconds)
            return []
        answered, _ = self._ray.wait(list(asked), timeout=seconds)
        events = []
        for ref in answered:
            worker, what = asked[ref]
            if worker in self._workers:  # not for a second answer of a dead one
                del worker.pending[what]
                events += self._event(worker, what, ref)
        return events

    def _event(self, worker: RayWorker, what: str, ref: Any) -> list[Event]:
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return self._death(worker, f"{type(error).__name__} on {worker.node or 'a node'}")
        if what == "stop":
            return [] if "run" in worker.pending else self._death(worker, "stopped")
        if what == "frames":
            is_alive = answer != worker.frames and "run" in worker.pending
            worker.frames = answer
            return [Event(worker, answer)] if is_alive else []
        if answer is None:  # a task that was stopped
            return self._death(worker, "stopped")
        if what == "ready" and isinstance(answer, Mapping):
            worker.node = str(answer["node"])
            answer = self._difference(answer) or answer
        return [Event(worker, answer)]

    def _death(self, worker: RayWorker, how: str) -> list[Event]:
        worker.kill()  # one that does not answer must not go on
        return [self._forget(worker, how)]

    def _forget(self, worker: RayWorker, how: str) -> Event:
        self._workers.remove(worker)
        self._slots = 0  # its node may be gone: count again
        return Event(worker, None, how)

    def _difference(self, report: Mapping[str, Any]) -> BatchError | None:
        """Return an error that lists what a node has other than the driver, None if nothing."""
        own, others = environment(), report["environment"]
        rows = [
            f"{name} {others.get(name, 'missing')}, not {own.get(name, 'missing')}"
            for name in {**own, **others}
            if own.get(name) != others.get(name)
        ]
        for output, line in zip(self._outputs, report["headers"], strict=True):
            rows += Header.from_json(line, "node").differences(output.stage.header())
        text = f"node {report['node']} differs from the driver: {'; '.join(rows)}"
        return BatchError(f"{text}: install the same on it") if rows else None

    def close(self) -> None:
        """End all actors, and the cluster if it was started or joined here."""
        for worker in [] if self._is_headless else self._workers:
            worker.kill()
        for output in self._outputs:
            output.store.remove_token(self._token)
        if self._owns_cluster:
            self._ray.shutdown()
