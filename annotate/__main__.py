"""Run the command `annotate`; an error of the library is printed here, as one line."""

import os
import sys

from annotate.errors import AnnotateError


def main() -> None:
    """Run the command line; exit code 0, 1 (one line says what was wrong) or 2 (usage)."""
    from annotate.cli.app import app

    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except AnnotateError as error:
        sys.exit(f"annotate: {error}")
    except BrokenPipeError:  # the program that reads our output has ended
        _discard_stdout()
        sys.exit(1)
    except OSError as error:  # a read-only or full disk in the middle of the work
        _discard_stdout()
        place = error.filename or "the output"
        sys.exit(f"annotate: {place}: cannot be read or written: {error.strerror or error}")


def _discard_stdout() -> None:
    """Let the interpreter flush what is left of the output to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
