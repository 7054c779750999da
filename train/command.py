"""The command line of what trains: a recipe, ``key=value`` overrides, one line on an error."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from blip2.display import one_line
from blip2.errors import UserError
from train.config import Recipe, read_recipe


def exit_status(run: Callable[..., None]) -> Callable[..., int]:
    """Make a command of a function: 0, or 2 with one line on stderr on an error of its user's."""

    @functools.wraps(run)
    def command(*arguments: Any, **named: Any) -> int:
        try:
            run(*arguments, **named)
        except UserError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        return 0

    return command


def run_recipe(
    argv: Sequence[str] | None,
    command: str,
    description: str,
    run: Callable[[Recipe], None],
    example: str,
) -> int:
    """Read a recipe from the command line and run it.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments; None takes the process's.
    command : str
        ``"stage1"``, ``"stage2"`` or ``"finetune"``.
    description : str
        For ``--help``.
    run : callable
        Trains the recipe.
    example : str
        A recipe, for ``--help``.

    Returns
    -------
    int
        0 on success, 2 with one line on stderr on an error that the user can mend, 130 on Ctrl+C.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m train.{command}",
        description=description,
        epilog=f"example: python -m train.{command} train/configs/{example} "
        f"data='shards/train-*.tar' output=runs/{command}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="with --dry-run: that share it"
    )
    args = parser.parse_intermixed_args(argv)
    try:
        recipe = read_recipe(args.config, args.overrides)
        if args.dry_run:
            from train.estimate import describe

            print(describe(recipe, command, args.processes))
        else:
            run(recipe)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
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
