"""Start the page: `python app.py`. Also the entry point on Hugging Face Spaces."""

import argparse
import errno
import importlib.util
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blip2.checkpoint_files import check_model
from blip2.display import one_line
from blip2.errors import UserError

EXAMPLE = """example:
  python app.py --photos ~/Pictures
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process unless given.

    Returns
    -------
    int
        The exit status: 0, or 2 where the user can put something right.
    """
    options = parse(arguments)
    try:
        serve(options)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Caption, chat about and search photos in the browser.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini", metavar="ID", help="captions and chats (mini)")
    parser.add_argument("--retriever", default="mini-itm", metavar="ID", help="searches (mini-itm)")
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder to search; new photos in it are indexed at each start (sample photos)",
    )
    parser.add_argument(
        "--index", type=Path, metavar="DIR", help="where the index is kept (in the cache)"
    )
    parser.add_argument(
        "--host",
        default="0.0.0.0" if on_spaces() else "127.0.0.1",
        metavar="H",
        help="address to listen on (127.0.0.1: this computer alone)",
    )
    parser.add_argument("--port", type=int, default=7860, metavar="P", help="port (7860)")
    parser.add_argument(
        "--share", action="store_true", help="also make a public link, through Gradio's servers"
    )
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for these")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="photos that visitors add are theirs alone and go with them (unless only this "
        "computer can reach the page)",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="also be an MCP server (pip install 'gradio[mcp]')"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (the best there is)")
    parser.add_argument(
        "--quantize",
        choices=["8bit", "4bit"],
        help="shrink a large language model on a GPU (mini refuses: it is small)",
    )
    return parser.parse_args(arguments)


def serve(options: argparse.Namespace) -> None:
    """Load the models, index the photos and serve the page until it is stopped.

    Raises
    ------
    UserError
        If a flag, a model, the photos or the port cannot be used.
    """
    # What can be checked at once comes before loading, which may take minutes.
    login = read_login(options.auth)
    check_port(options.host, options.port)
    if options.photos is not None and not options.photos.is_dir():
        raise UserError(
            f"The folder {options.photos} does not exist; give --photos a folder of photos."
        )
    if options.mcp and importlib.util.find_spec("mcp") is None:
        raise UserError("--mcp needs a package more; run pip install 'gradio[mcp]' first.")
    if options.mcp and is_private(options):
        raise UserError(
            "--mcp makes one visitor of all agents, so that photos could not be private; leave "
            "--mcp out, or add --no-private."
        )
    check_models(options)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder below is removed
    with tempfile.TemporaryDirectory(prefix="blip2-page-") as scratch:
        # What visitors send lives here and nowhere else, for as long as the page does.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch) / "received")
        launch(options, login, Path(scratch))


def check_models(options: argparse.Namespace) -> None:
    """Refuse models that are not there, and to shrink one that cannot be.

    Raises
    ------
    UserError
        If one cannot be used.
    """
    check_model(options.model, 2, say, options.quantize)
    check_model(options.retriever, 1, say)
    if options.quantize and options.device is None:
        from demo.zerogpu import find_gpu

        find_gpu()  # ZeroGPU must come before torch
        import torch  # late: it takes seconds

        if not torch.cuda.is_available():
            raise UserError(
                "--quantize is for a GPU and there is none here; leave it out, or add --device cpu "
                "to save memory all the same, which makes answers slower."
            )


def launch(options: argparse.Namespace, login: tuple[str, str] | None, scratch: Path) -> None:
    """Do the work of `serve`, once the surroundings are set."""
    say("Starting ...")
    from demo.models import load_models  # late: gradio, torch and transformers take seconds

    # First of all: ZeroGPU must come before torch.
    models = load_models(options.model, options.retriever, options.device, options.quantize, say)
    from demo.captioning import caption_samples
    from demo.decoder import decoders
    from demo.kept import KeptTexts
    from demo.library import sample_photos
    from demo.limits import middleware
    from demo.opening import open_library
    from demo.page import build_page
    from demo.theme import CSS, theme
    from demo.uploads import MAX_UPLOAD
    from demo.visitors import Visitors
    from index import PhotoIndex

    received = scratch / "received"
    samples = options.photos is None and not (options.index and PhotoIndex.exists(options.index))
    with progress_bar("Indexing photos") as progress:
        library, report = open_library(
            models.retriever,
            options.photos,
            options.index,
            received / "thumbnails",
            progress,
            scratch,
            say,
        )
    say(f"{len(library):,} photos in the library, {report.added:,} of them new.")
    for sentence in report.remarks(forget="the button in the page"):
        say(sentence)
    for path, reason in report.refused:
        say(f"Left out {path}: {reason}")
    for path, note in report.notes:
        say(f"Damaged, but read: {path}: {note}")
    decoders().start()
    kept = KeptTexts()
    if on_spaces():  # a Space is started seldom and visited often
        say("Captioning the sample photos ...")
        caption_samples(models.blip2, kept, sample_photos())
    visitors = Visitors(library.visit if is_private(options) else None)
    page = build_page(models, library, samples, visitors, kept)
    try:
        _, local, public = page.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            auth=login,
            max_file_size=MAX_UPLOAD,
            theme=theme(),
            css=CSS,
            footer_links=["api", "settings"],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=options.mcp,
            enable_monitoring=False,
            state_session_capacity=1000,
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs={"middleware": middleware(page, received, proxied=on_spaces())},
        )
    except OSError as error:
        raise UserError(cannot_listen(options.host, options.port, error)) from error
    say(f"Open {local.rstrip('/')} in the browser; Ctrl+C stops it.")
    if public:
        say(f"Public link: {public}")
    try:
        while True:  # the server runs in a thread of its own
            time.sleep(3600)
    finally:
        page.close(verbose=False)
        visitors.close()


def on_spaces() -> bool:
    """Tell whether this runs on Hugging Face Spaces."""
    return "SPACE_ID" in os.environ


def is_private(options: argparse.Namespace) -> bool:
    """Tell whether the photos that a visitor adds are for them alone.

    Unless it was said, they are where anybody but the people of this computer may visit.
    """
    if options.private is not None:
        return options.private
    return options.share or on_spaces() or options.host not in ("127.0.0.1", "localhost", "::1")


def read_login(given: str | None) -> tuple[str, str] | None:
    """Take apart USER:PASSWORD.

    Raises
    ------
    UserError
        If either is missing.
    """
    if given is None:
        return None
    user, _, password = given.partition(":")
    if not user or not password:
        raise UserError("--auth needs a name and a password; write it as USER:PASSWORD.")
    return user, password


def check_port(host: str, port: int) -> None:
    """Make sure that the address can be listened on.

    Raises
    ------
    UserError
        If it cannot.
    """
    if not 0 < port < 65536:
        raise UserError(f"There is no port {port}; give --port a number from 1 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(cannot_listen(host, port, error)) from error


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Return what is wrong with an address, in one sentence."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use already; choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} needs special rights; choose one above 1023 with --port."
    reason = error.strerror or error
    return f"The address {host}:{port} cannot be listened on ({reason}); change --host or --port."


def say(line: str) -> None:
    """Print a line of progress, at once even into a pipe."""
    print(one_line(line), flush=True)


@contextmanager
def progress_bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on the terminal; gives a function that takes (steps done, steps in all)."""
    from tqdm import tqdm

    with tqdm(desc=words, unit="photo", disable=None, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


if __name__ == "__main__":
    sys.exit(main())
