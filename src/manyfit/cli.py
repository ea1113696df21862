"""The command line: `manyfit doctor`, or `python -m manyfit doctor`. It parses, calls and prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="manyfit", description="Fit many models at once. Keep what really wins.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("doctor", help="what there is to compute on, what will be used, and what is missing")
    parser.parse_args(arguments)
    return _doctor()


def _doctor() -> int:
    from manyfit.training.doctor import diagnose  # after parsing: it loads Keras

    print(diagnose())
    return 0
