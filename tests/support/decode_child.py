"""Decode clips in a process of its own, which a crash of a decoder ends: `Child`.

Run as a script, it reads a path a line, and answers each with a line of JSON.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from mutations import limits

from annotate.errors import AnnotateError, BrokenVideo
from annotate.video import reader


class Child:
    """A process that decodes one clip after another, and is started again after a crash."""

    def __init__(self):
        self._process = None

    def decode(self, path):
        """Return the answer of `decode` for the clip; it has "crash" where the process ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                text=True,
            )
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status, self._process = self._process.wait(), None
        return {"crash": status}

    def close(self):
        """End the process."""
        if self._process is not None:
            self._process.communicate()


def decode(path):
    """Decode a clip; return what came: the frames counted before, those read, those counted then.

    Errors of ours are under "refused" or, where frames came before, "broken"; any other one is
    under "traceback".
    """
    answer = {"frames": 0}
    try:
        with limits():
            video = reader.probe(path)
            last = -1
            for number, frame in enumerate(reader.frames(path)):
                assert frame.index == number and frame.seconds > last
                assert frame.size_wh == (video.width, video.height)
                last, answer["frames"] = frame.seconds, number + 1
            answer["count"] = reader.probe(path).frame_count
            end = reader.seek(path, answer["count"] - 1)
            assert (end.index, end.seconds) == (answer["frames"] - 1, last)
    except BrokenVideo as error:
        answer |= {"broken": error.frame, "refused": str(error)}
    except AnnotateError as error:
        answer["refused"] = str(error)
    except BaseException as error:
        answer["traceback"] = repr(error)
        logging.exception("%s", path)
    return answer


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(decode(Path(line.rstrip())))}\n")
        sys.stdout.flush()
