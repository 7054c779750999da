"""What visitors read when something fails: a sentence of its own, with a way out."""

import html
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from blip2.display import one_line
from blip2.errors import UserError


@contextmanager
def sentences() -> Iterator[None]:
    """Show the visitor the sentence of a `UserError`, or the one for what failed.

    A failure of ours keeps its traceback on the terminal; the page names its kind alone.
    """
    try:
        yield
    except gr.Error:  # such as that of ZeroGPU, when a visitor has used up their share
        raise
    except UserError as error:
        raise gr.Error(html.escape(one_line(error), quote=False), print_exception=False) from error
    except Exception as error:
        if lacks_memory(error):
            free_memory()
            raise gr.Error(
                "There was not enough memory for this; try again with fewer beams or candidates, "
                "a shorter text, or once fewer people are here.",
                print_exception=False,
            ) from error
        raise gr.Error(
            f"The app failed over this ({type(error).__name__}), and its terminal says where; try "
            "again, with another photo or text if it stays."
        ) from error


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or beside it."""
    # torch has a class for its GPUs alone; importing it here would cost seconds.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def free_memory() -> None:
    """Give back what torch keeps of a GPU's memory, so that the next visitor finds some."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def notice_html(sentence: str) -> str:
    """Return a sentence as a notice; whatever it quotes stays text."""
    return f'<p role="alert">{html.escape(one_line(sentence))}</p>'


def doubt_html(sentence: str) -> str:
    """Return a sentence on what an answer may lack; whatever it quotes stays text."""
    return f'<p class="doubt" role="status">{html.escape(one_line(sentence))}</p>'
