"""The command line of a stage: a recipe, ``key=value`` overrides, one line on an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from blip2.errors import UserError
from train.config import Recipe, read_recipe


def run_recipe(
    argv: Sequence[str] | None, stage: str, description: str, run: Callable[[Recipe], None]
) -> int:
    """Read a recipe from the command line and run it.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments; None takes the process's.
    stage : str
        ``"stage1"`` or ``"stage2"``.
    description : str
        For ``--help``.
    run : callable
        Trains the recipe.

    Returns
    -------
    int
        0 on success, 2 with one line on stderr on an error that the user can mend, 130 on Ctrl+C.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m train.{stage}",
        description=description,
        epilog=f"example: python -m train.{stage} train/configs/mini_{stage}.yaml "
        f"data='shards/train-*.tar' output=runs/{stage}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    args = parser.parse_args(argv)
    try:
        run(read_recipe(args.config, args.overrides))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues.", file=sys.stderr)
        return 130
    return 0


def positive(text: str) -> int:
    """An option that is a whole number from 1, for argparse."""
    return _at_least(1, text)


def count(text: str) -> int:
    """An option that is a whole number from 0, for argparse."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
    return value
