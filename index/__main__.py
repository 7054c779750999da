"""`python -m index`: build and search a library of photos on the command line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.errors import UserError

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index.search import PhotoIndex

DEFAULT_RETRIEVER = "mini-itm"
Loader = Callable[[str], "Blip2Retriever"]


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line, as every other error."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None, load_retriever: Loader | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process unless given.
    load_retriever : callable, optional
        Makes a retriever from its name; `Blip2Retriever.from_pretrained` unless given.

    Returns
    -------
    int
        Exit status: 0, 2 after an error that was explained, 130 if interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args, load_retriever or _load_retriever)
    except UserError as error:
        print(f"error: {_printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the index is as it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m index",
        description="Find photos by words: build an index of a folder once, then search it.",
        epilog="example: python -m index build ~/Pictures --out ~/pictures.index",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example: python -m index {name} {example}",
        )
        sub.set_defaults(run=run)
        return sub

    build = command(
        "build",
        _build,
        "index the photos of folders, or bring an index up to date with them",
        "~/Pictures --out ~/pictures.index",
    )
    build.add_argument("paths", metavar="FOLDER", nargs="+", type=Path, help="photos or folders")
    build.add_argument("--out", metavar="INDEX", type=Path, required=True, help="index folder")
    add = command(
        "add", _add, "add photos or folders to an index", "~/pictures.index party.jpg ~/Holidays"
    )
    remove = command(
        "remove", _remove, "take photos or folders out of an index", "~/pictures.index ~/Holidays"
    )
    search = command(
        "search",
        _search,
        "find the photos that a text describes best",
        '~/pictures.index "a dog on the beach" --k 5 --rerank 64',
    )
    texts = command(
        "texts",
        _texts,
        "order texts by how well they describe a photo; needs no index",
        'photo.jpg "a dog" "a cat on a sofa" --rerank',
    )
    texts.add_argument("photo", metavar="PHOTO", type=Path, help="a photo")
    texts.add_argument("texts", metavar="TEXT", nargs="*", help="what to choose from, in English")
    texts.add_argument("--from", metavar="FILE", dest="file", type=Path, help="one text a line")
    texts.add_argument("--rerank", action="store_true", help="look at photo and text together, too")
    info = command("info", _info, "tell what an index holds", "~/pictures.index --json")
    verify = command("verify", _verify, "check an index for damage", "~/pictures.index")

    for sub in (add, remove, search, info, verify):
        sub.add_argument("index", metavar="INDEX", type=Path, help="index folder")
    for sub in (add, remove):
        sub.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="photos or folders")
    search.add_argument("text", metavar="TEXT", nargs="?", help="what to look for, in English")
    search.add_argument(
        "--photo", metavar="PHOTO", type=Path, help="look for photos like this one instead"
    )
    only = search.add_argument_group("only some of the photos")
    only.add_argument("--in", metavar="FOLDER", dest="folder", type=Path, help="files in it")
    only.add_argument("--name", metavar="PATTERN", default="", help="file names, such as 'IMG_*'")
    only.add_argument(
        "--since", metavar="DATE", type=_date, help="changed then or later, 2024-05-31"
    )
    only.add_argument("--until", metavar="DATE", type=_end_of_day, help="changed then or before")
    search.add_argument("--k", metavar="N", type=_count, default=12, help="photos wanted (12)")
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
    return parser


def _build(args: argparse.Namespace, load: Loader) -> int:
    from index.embed import find_photos
    from index.search import PhotoIndex

    _look_for_photos(args.paths)  # before a model is loaded and a folder made for nothing
    if PhotoIndex.exists(args.out):
        # Whether anything is new can be told without a model, which takes seconds to load.
        index = _open(args.out, args.retriever, load, needed=False)
        if args.retriever is None and index.changed(find_photos(args.paths)[0]):
            index = _open(args.out, None, load)
        return _grow(index, args, "update")
    retriever = load(args.retriever or DEFAULT_RETRIEVER)
    return _grow(PhotoIndex.create(args.out, retriever), args, "update")


def _add(args: argparse.Namespace, load: Loader) -> int:
    _look_for_photos(args.paths)
    return _grow(_open(args.index, args.retriever, load), args, "add")


def _grow(index: "PhotoIndex", args: argparse.Namespace, how: str) -> int:
    from tqdm import tqdm

    with tqdm(unit="photo", file=sys.stderr, disable=None, dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = getattr(index, how)(args.paths, progress)
    refused = [{"path": str(path), "reason": reason} for path, reason in report.refused]
    counts = {"added": report.added, "known": report.known, "gone": report.gone}
    counts["photos"] = len(index)
    if args.json:
        _print_json({**counts, "refused": refused})
    else:
        print(
            f"{report.added} added, {report.known} known, {report.gone} gone, "
            f"{len(refused)} refused; the index holds {len(index)} photos"
        )
        for item in refused:
            print(f"refused: {_printable(item['path'])}: {_printable(item['reason'])}")
    if not report.added and not report.known:
        raise UserError("None of the files could be used; the report gives the reason for each.")
    return 0


def _remove(args: argparse.Namespace, load: Loader) -> int:
    index = _open(args.index, args.retriever, load, needed=False)
    removed = index.remove(args.paths)
    if not removed:
        raise UserError(
            f"The index {args.index} holds nothing of what is named; "
            "name files and folders as they were when they were added."
        )
    if args.json:
        _print_json({"removed": removed, "photos": len(index)})
    else:
        print(f"{removed} files removed; the index holds {len(index)} photos")
    return 0


def _search(args: argparse.Namespace, load: Loader) -> int:
    from index.places import Where

    if (args.text is None) == (args.photo is None):
        raise UserError("Give either a text to look for or --photo with a photo.")
    folder = None if args.folder is None else Path(os.path.abspath(args.folder))
    where = Where(folder, args.name, args.since, args.until)
    index = _open(args.index, args.retriever, load)
    if args.photo is None:
        hits = index.search(args.text, args.k, args.rerank, where)
    elif args.rerank:
        raise UserError("--rerank compares photos with a text; leave it out with --photo.")
    else:
        hits = index.similar(args.photo, args.k, where)
    if args.json:
        found = [{**vars(hit), "path": str(hit.path)} for hit in hits]
        asked = {"text": args.text} if args.photo is None else {"photo": str(args.photo)}
        _print_json({**asked, "hits": found})
        return 0
    for hit in hits:
        match = "" if hit.match is None else f"  match {hit.match:.3f}"
        missing = "  (missing)" if hit.missing else ""
        print(f"{hit.rank:4}  {hit.score:.4f}{match}  {_printable(hit.path)}{missing}")
    if where and not hits:
        print("no photo of the index is among those that were asked for", file=sys.stderr)
    return 0


def _texts(args: argparse.Namespace, load: Loader) -> int:
    from index.hits import best_texts

    texts = list(args.texts)
    if args.file is not None:
        try:
            lines = args.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{args.file} cannot be read as text; check the path.") from error
        texts += [line.strip() for line in lines if line.strip()]
    if not os.path.isfile(args.photo):
        raise UserError(f"{args.photo} does not exist; check the path.")
    found = best_texts(load(args.retriever or DEFAULT_RETRIEVER), args.photo, texts, args.rerank)
    if args.json:
        named = [{"text": t, "score": s, "match": m} for t, s, m in found]
        _print_json({"photo": str(args.photo), "texts": named})
        return 0
    for rank, (text, score, match) in enumerate(found, start=1):
        judged = "" if match is None else f"  match {match:.3f}"
        print(f"{rank:4}  {score:.4f}{judged}  {_printable(text)}")
    return 0


def _info(args: argparse.Namespace, load: Loader) -> int:
    info = _open(args.index, args.retriever, load, needed=False).info()
    if args.json:
        _print_json(info)
    else:
        for key, value in info.items():
            print(f"{key:14} {_printable(value)}")
    return 0


def _verify(args: argparse.Namespace, load: Loader) -> int:
    index = _open(args.index, args.retriever, load, needed=False)
    missing = index.verify()
    if args.json:
        _print_json({"photos": len(index), "missing": [str(path) for path in missing]})
        return 0
    print(f"no damage: {len(index)} photos; {len(missing)} files are missing")
    for path in missing:
        print(f"missing: {_printable(path)}")
    return 0


def _open(folder: Path, name: str | None, load: Loader, *, needed: bool = True) -> "PhotoIndex":
    from index.manifest import Manifest
    from index.search import PhotoIndex

    made_by = Manifest.read(folder).retriever  # says before a model is loaded what is the matter
    if name is None and not needed:
        return PhotoIndex.open(folder, None)
    return PhotoIndex.open(folder, load(name or made_by))


def _look_for_photos(paths: list[Path]) -> None:
    from index.embed import find_photos

    for path in paths:
        if not os.path.lexists(path):
            raise UserError(f"{path} does not exist; check the path.")
    found, refused = find_photos(paths)
    if not found and refused:
        raise UserError(f"The folder {refused[0][0]} cannot be used: {refused[0][1]}")
    if not found:
        raise UserError(f"There are no photos in {paths[0]}; give a folder that holds some.")


def _load_retriever(name: str) -> "Blip2Retriever":
    from blip2 import Blip2Retriever

    return Blip2Retriever.from_pretrained(name)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2024-05-31") from error


def _end_of_day(text: str) -> datetime:
    moment = _date(text)
    return moment + timedelta(days=1, microseconds=-1) if len(text) == 10 else moment


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _printable(value: object) -> str:
    """Show file names on one line, also those that are not Unicode."""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text.replace("\n", "\\n").replace("\r", "\\r")


if __name__ == "__main__":
    sys.exit(main())
