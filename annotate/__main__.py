"""Run the command `annotate`; an error of the library is printed here, as one line."""

import os
import sys

from annotate.errors import AnnotateError


def main() -> None:
    """Run the command line; exit code 0, 1 (one line says what was wrong) or 2 (usage)."""
    from annotate.cli.app import app

    try:
        app()
    except AnnotateError as error:
        sys.exit(f"annotate: {error}")
    except BrokenPipeError:  # the program that reads our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
