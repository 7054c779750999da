"""Commands whose output goes to a program that has read enough, such as `head`."""

import functools
import os
import select
import sys
from collections.abc import Callable
from io import UnsupportedOperation
from typing import ParamSpec, TextIO

CLOSED = 141  # as the shell reports a program that SIGPIPE ended

P = ParamSpec("P")


def ends_quietly(command: Callable[P, int]) -> Callable[P, int]:
    """Have a command end without a word once nobody reads its output any more.

    Parameters
    ----------
    command : callable
        Returns an exit status.

    Returns
    -------
    callable
        The same; its exit status is `CLOSED` where the output was closed.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                sys.stdout.flush()  # or Python would do so at its end, where nothing catches it
        except BrokenPipeError:
            closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
            if not closed:  # it was another pipe, such as the connection to a server
                raise
            for stream in closed:
                _discard(stream)
            return CLOSED

    return run


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads."""
    try:
        number = stream.fileno()
    except UnsupportedOperation:  # a stream in memory
        return False
    poll = select.poll()
    poll.register(number, 0)  # errors are reported always
    return bool(poll.poll(0))


def _discard(stream: TextIO) -> None:
    """Let the rest of a stream go nowhere, so that it can be flushed at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
