"""A button that ends what runs, alive only while something does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.events import Dependency

# In the browser alone: it must not wait for the server while the model is busy.
_QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
_ON, _OFF = (f"() => ({{__type__: 'update', interactive: {alive}}})" for alive in ("true", "false"))


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
        begin(None, None, button, js=_ON, **_QUIET)
    running: list[Dependency] = []
    yield running
    for event in running:
        event.then(None, None, button, js=_OFF, **_QUIET)
    button.click(None, None, button, js=_OFF, cancels=running, **_QUIET)
