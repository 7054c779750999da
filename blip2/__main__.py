"""The command line: `python -m blip2 caption PHOTO ...` and `python -m blip2 ask PHOTO QUESTION`.

Exit status: 0 when all went well; 1 when some photos were captioned and others were not; 2 when
nothing could be done; 141 when the output was closed, as by `head`. Each thing that went wrong is
one line on the error stream.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blip2.checkpoint_files import check_model
from blip2.closed_pipe import ends_quietly
from blip2.display import one_line, to_json
from blip2.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from blip2 import Blip2

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130

EXAMPLES = """\
examples:
  python -m blip2 caption beach.jpg
  python -m blip2 caption *.jpg --json --num-beams 5
  python -m blip2 ask beach.jpg "What is the dog doing?"
"""
CAPTION_NOTE = """\
Photos are JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF.
One photo prints its caption; several print a line each, the path and the caption with a tab
between them. A photo that cannot be read is reported and the others are still captioned; the exit
status is then 1, or 2 if none was captioned.

example:
  python -m blip2 caption beach.jpg harbour.png --instruction "Describe this photo in detail."
"""
ASK_NOTE = """\
example:
  python -m blip2 ask beach.jpg "What is the dog doing?"
"""


@ends_quietly
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those after the program's name; the process's own by default.

    Returns
    -------
    int
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except UserError as error:
        _report(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def caption(options: argparse.Namespace) -> int:
    """Caption every photo that can be read.

    Parameters
    ----------
    options : argparse.Namespace
        As the parser of `caption` gives them.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    UserError
        For what stops all photos alike: the instruction, the model, its files.
    """
    from tqdm import tqdm

    from blip2.processing import PhotoError, clean_text, open_photo

    instruction = clean_text(options.instruction, "instruction", default="")
    check_model(options.model, 2, _say)
    model, failed = None, 0
    # No bar where the error stream is a file or the photo is alone.
    photos = tqdm(options.photos, unit="photo", disable=True if len(options.photos) == 1 else None)
    for path in photos:
        record = {"photo": path}
        try:
            photo = open_photo(path)
        except PhotoError as error:
            failed += 1
            photos.clear()
            _report(error)
            record["error"] = str(error)
        else:
            # Loaded for the first good photo, so that a wrong path is reported at once.
            model = model or _load(options)
            record["caption"] = model.caption(photo, instruction, num_beams=options.num_beams)
            record["model"] = model.name
            photos.clear()
            _report_damage(path, photo)
        if options.json:
            photos.write(to_json(record, ensure_ascii=False))
        elif "caption" in record:
            alone = len(options.photos) == 1
            photos.write(record["caption"] if alone else f"{one_line(path)}\t{record['caption']}")
    if failed == len(options.photos):
        return FAILED
    return SOME_FAILED if failed else 0


def ask(options: argparse.Namespace) -> int:
    """Answer one question about one photo.

    Parameters
    ----------
    options : argparse.Namespace
        As the parser of `ask` gives them.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    UserError
        If the photo, the question or the model cannot be used.
    """
    from blip2.processing import clean_text, open_photo

    question = clean_text(options.question, "question")
    check_model(options.model, 2, _say)
    photo = open_photo(options.photo)
    model = _load(options)
    answer = model.chat(photo).ask(question, num_beams=options.num_beams)
    _report_damage(options.photo, photo)
    record = {
        "photo": options.photo,
        "question": question,
        "answer": answer,
        "model": model.name,
    }
    print(to_json(record, ensure_ascii=False) if options.json else answer)
    return 0


def _load(options: argparse.Namespace) -> "Blip2":
    from blip2 import Blip2

    return Blip2.from_pretrained(options.model, device=options.device)


def _report(error: UserError) -> None:
    _say(f"error: {one_line(error)}")


def _report_damage(path: str, photo: "Image.Image") -> None:
    """Say what is wrong with a photo that could be read nevertheless."""
    for note in photo.info.get("notes", ()):
        _say(f"note: {one_line(path)}: {note}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blip2",
        description="Caption photos and answer questions about them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model",
        default="mini",
        metavar="ID",
        help="mini, Salesforce/blip2-..., a folder or a .pth file (default: %(default)s)",
    )
    shared.add_argument("--num-beams", type=_count, default=1, metavar="N", help="1 is greedy")
    shared.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 ... (default: the best)")
    shared.add_argument("--json", action="store_true", help="print one JSON object a line")

    captioning = commands.add_parser(
        "caption",
        help="describe photos",
        description="Describe photos in a sentence each.",
        epilog=CAPTION_NOTE,
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    captioning.add_argument("photos", nargs="+", metavar="PHOTO", help="path of a picture")
    captioning.add_argument(
        "--instruction", default="", metavar="TEXT", help="what to write about (default: a caption)"
    )
    captioning.set_defaults(command=caption)

    asking = commands.add_parser(
        "ask",
        help="answer a question about a photo",
        description="Answer a question about a photo.",
        epilog=ASK_NOTE,
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asking.add_argument("photo", metavar="PHOTO", help="path of a picture")
    asking.add_argument("question", metavar="QUESTION", help="in quotes")
    asking.set_defaults(command=ask)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
