"""A button that ends what runs, alive only while something does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr
from gradio.events import Dependency

from demo.events import QUIET

_ON, _OFF = (f"() => ({{__type__: 'update', interactive: {alive}}})" for alive in ("true", "false"))
T = TypeVar("T")
_PAUSE = 0.25  # seconds between signs of life


def stoppable(work: Callable[..., T]) -> Iterator[T | None]:
    """Do something long in a thread, so that closing the iterator stops it.

    Parameters
    ----------
    work : callable
        Called with ``stopped``, a `threading.Event`: once that is set, it should end.

    Yields
    ------
    T or None
        None as a sign of life, and at the end what came of it.
    """
    stopped, results, failures = threading.Event(), [], []

    def run() -> None:
        try:
            results.append(work(stopped=stopped))
        except BaseException as error:  # handed to the reader below, which raises it
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_PAUSE)
            if thread.is_alive():
                yield None
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]
    yield results[0]


@contextmanager
def stopped_by(button: gr.Button, started: list[Any]) -> Iterator[list[Dependency]]:
    """Let a button end the events that are made inside the ``with`` block.

    Parameters
    ----------
    button : gr.Button
        The button.
    started : list of event listeners
        What starts the events, such as ``run.click``.

    Yields
    ------
    list of Dependency
        Takes the events.
    """
    # The page handles what one click starts in the order in which it was declared, and comes to
    # the next when the one before has ended: the button must wake up first.
    for begin in started:
        begin(None, None, button, js=_ON, **QUIET)
    running: list[Dependency] = []
    yield running
    for event in running:
        event.then(None, None, button, js=_OFF, **QUIET)
        event.failure(None, None, button, js=_OFF, **QUIET)
    button.click(None, None, button, js=_OFF, cancels=running, **QUIET)
