"""`kill -9` of the server at random moments: no acknowledged action is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
from http.client import HTTPException

import pytest
from local_server import Client

from annotate.items.points import PromptScope
from annotate.web.point.table import read_point_table

KILLS = int(os.environ.get("POINT_KILLS", "3"))


def start(demo, folder):
    """Start `annotate point` as a user does; returns the process and a client of its page."""
    words = ["point", str(demo), "-p", "points.csv", "--no-open", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "annotate", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:")
    return process, Client(address)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_kills_lose_nothing_acknowledged(demo, tmp_path):
    rng = random.Random(5)
    acknowledged, number = [], 0
    for _ in range(KILLS):
        process, client = start(demo, tmp_path)
        try:
            client.json("state?client=me")
            killer = threading.Timer(rng.uniform(0.05, 0.6), process.kill)
            killer.start()
            while True:
                number += 1
                action = {"kind": "point", "frame": 0, "object": 1, "label": 1}
                action |= {"x": number % 800, "y": number // 800}
                try:
                    status, body = client.request("act", {"client": "me", "action": action})
                except (OSError, HTTPException):
                    break  # killed: this one was not acknowledged
                assert status == 200, body
                acknowledged.append((number % 800, number // 800))
            killer.join()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    process, client = start(demo, tmp_path)
    try:
        [shown] = client.json("state?client=me")["objects"]
        rows = [(row["x"], row["y"]) for row in shown["rows"]]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert set(acknowledged) <= set(rows)
    assert len(rows) <= len(acknowledged) + KILLS  # at most one each without an answer
    table = read_point_table(tmp_path / "points.csv", PromptScope((800, 600), 140))
    assert [(row.x, row.y) for row in table.rows] == rows
