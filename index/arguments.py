"""The command line of `python -m index`: commands, their arguments and their help."""

import argparse
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

DEFAULT_RETRIEVER = "mini-itm"
SEARCHES = ("auto", "exhaustive", "candidates")  # of `index.store`, which takes long to import


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line, as every other error."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def parser(runs: dict[str, Callable]) -> argparse.ArgumentParser:
    """Make the parser.

    Parameters
    ----------
    runs : dict
        What to call for each command.
    """
    top = _Parser(
        prog="python -m index",
        description="Find photos by words: build an index of a folder once, then search it.",
        epilog="example: python -m index build ~/Pictures --out ~/pictures.index",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example: python -m index {name} {example}",
        )
        sub.set_defaults(run=runs[name])
        return sub

    build = command(
        "build",
        "index the photos of folders, or bring an index up to date with them",
        "~/Pictures --out ~/pictures.index",
    )
    build.add_argument("paths", metavar="FOLDER", nargs="+", type=Path, help="photos or folders")
    build.add_argument("--out", metavar="INDEX", type=Path, required=True, help="index folder")
    build.add_argument(
        "--search",
        choices=SEARCHES,
        help="of a new index: compare all photos or FAISS's candidates of them (auto: by size)",
    )
    build.add_argument(
        "--store",
        metavar="URL",
        help="of a new index: Qdrant server that holds the embeddings (files in the index folder)",
    )
    build.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        help="leave out files and folders of this name, such as 'Screenshots' or 'raw/*.tif'; may "
        "be repeated; kept with the index until other patterns are given ('' for none)",
    )
    build.add_argument(
        "--forget",
        action="store_true",
        help="also take out deleted photos where they are most of a folder",
    )
    build.add_argument(
        "--check",
        action="store_true",
        help="read all files, to notice changes that left size and date as they were",
    )
    add = command(
        "add", "add photos or folders to an index", "~/pictures.index party.jpg ~/Holidays"
    )
    remove = command(
        "remove", "take photos or folders out of an index", "~/pictures.index ~/Holidays"
    )
    search = command(
        "search",
        "find the photos that a text describes best",
        '~/pictures.index "a dog on the beach" --k 5 --rerank 64',
    )
    texts = command(
        "texts",
        "order texts by how well they describe a photo; needs no index",
        'photo.jpg "a dog" "a cat on a sofa" --rerank',
    )
    texts.add_argument("photo", metavar="PHOTO", type=Path, help="a photo")
    texts.add_argument("texts", metavar="TEXT", nargs="*", help="what to choose from, in English")
    texts.add_argument("--from", metavar="FILE", dest="file", type=Path, help="one text a line")
    texts.add_argument("--rerank", action="store_true", help="look at photo and text together, too")
    info = command("info", "tell what an index holds", "~/pictures.index --json")
    verify = command("verify", "check an index for damage", "~/pictures.index")

    for sub in (add, remove, search, info, verify):
        sub.add_argument("index", metavar="INDEX", type=Path, help="index folder")
    for sub in (add, remove):
        sub.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="photos or folders")
    search.add_argument("text", metavar="TEXT", nargs="?", help="what to look for, in English")
    search.add_argument(
        "--photo", metavar="PHOTO", type=Path, help="look for photos like this one instead"
    )
    only = search.add_argument_group("only some of the photos")
    only.add_argument(
        "--in", metavar="FOLDER", dest="folder", type=Path, help="files in it, through links, too"
    )
    only.add_argument(
        "--name",
        metavar="PATTERN",
        default="",
        help="file names as a shell has them, such as 'IMG_*'; * ? and [ab] are special",
    )
    only.add_argument(
        "--since", metavar="DATE", type=_date, help="changed then or later, 2024-05-31"
    )
    only.add_argument("--until", metavar="DATE", type=_end_of_day, help="changed then or before")
    search.add_argument("--k", metavar="N", type=_wanted, default=12, help="photos wanted (12)")
    search.add_argument(
        "--rerank",
        metavar="N",
        type=_count,
        default=0,
        help="rank the best N anew, looking at photo and text together: slower, better (0: off)",
    )
    for sub in (build, add, remove, search, texts, info, verify):
        sub.add_argument(
            "--retriever",
            metavar="ID",
            help=f"model; the one that made the index, {DEFAULT_RETRIEVER} for a new one",
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
    return top


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _wanted(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1; ask for at least 1 photo"
        )
    return int(text)


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2024-05-31") from error


def _end_of_day(text: str) -> datetime:
    moment = _date(text)
    return moment + timedelta(days=1, microseconds=-1) if len(text) == 10 else moment
