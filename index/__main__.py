"""`python -m index`: build and search a library of photos on the command line."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.checkpoint_files import check_model, local_fingerprint
from blip2.closed_pipe import ends_quietly
from blip2.display import one_line, to_json
from blip2.errors import UserError
from index.arguments import DEFAULT_RETRIEVER, parser
from index.progress import progress_bar

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index.listing import Listing
    from index.manifest import Manifest
    from index.report import AddReport
    from index.search import PhotoIndex

Loader = Callable[[str], "Blip2Retriever"]


@ends_quietly
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
        Exit status: 0, 2 after an error that was explained, 130 if interrupted, 141 if the output
        was closed.
    """
    args = parser(_RUNS).parse_args(argv)
    try:
        if load_retriever is None and args.retriever is not None:
            check_model(args.retriever, 1, _say)
        return args.run(args, load_retriever or _load_retriever)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        writes = args.command in ("build", "add", "remove")
        _say("interrupted" + ": the index is as it was after its last commit" * writes)
        return 130


def _build(args: argparse.Namespace, load: Loader) -> int:
    from index.folder import OtherWeightsError
    from index.grow import NoRetriever, UpdateOptions
    from index.manifest import Manifest
    from index.search import PhotoIndex
    from index.split import Share, build_share

    if args.store is not None and not args.store.startswith(("http://", "https://")):
        raise UserError(
            f"{args.store} is not the address of a Qdrant server; give one such as "
            "http://localhost:6333."
        )
    there = PhotoIndex.exists(args.out)
    kept = Manifest.read(args.out) if there else None
    if kept is not None:
        same = args.search in (None, kept.store["search"])
        if not (same and args.store in (None, kept.store.get("address"))):
            raise UserError(
                f"The index {args.out} was made with another --search or --store; leave them out, "
                "or build a new index in another folder."
            )
    listing = _look_for_photos(args.paths, args.exclude, kept)
    made = (args.search or "auto", args.store)
    name = args.retriever or (kept.retriever if kept else DEFAULT_RETRIEVER)
    options = UpdateOptions(args.check, args.forget, args.exclude, _say)
    share = Share.of_environment()
    if share.world > 1:
        if args.check:
            raise UserError("--check is for one process; leave it out where several build.")
        with progress_bar(shown=share.rank == 0) as progress:
            report = build_share(args.out, args.paths, share, load(name), made, progress, options)
        return 0 if report is None else _report(report, len(PhotoIndex.open(args.out, None)), args)
    if there and args.retriever is None and local_fingerprint(name) in (None, kept.fingerprint):
        # Whether anything is new can be told without a model, which takes seconds to load.
        index = PhotoIndex.open(args.out, None)
    elif there:
        retriever = load(name)
        try:
            index = PhotoIndex.open(args.out, retriever)
        except OtherWeightsError:
            _say(f"This index was made with other weights of {name}: all photos are embedded anew.")
            index = PhotoIndex.open(args.out, None)
            listing.files = list(dict.fromkeys([*listing.files, *index.start_over(retriever)]))
    else:
        index = PhotoIndex.create(args.out, load(name), *made)
    with progress_bar() as progress:
        try:
            report = index.update(listing, progress, options)
        except NoRetriever:
            index = PhotoIndex.open(args.out, load(name))
            report = index.update(listing, progress, options)
    return _report(report, len(index), args)


def _add(args: argparse.Namespace, load: Loader) -> int:
    _look_for_photos(args.paths)
    index = _open(args.index, args.retriever, load)
    with progress_bar() as progress:
        report = index.add(args.paths, progress)
    return _report(report, len(index), args)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _report(report: "AddReport", photos: int, args: argparse.Namespace) -> int:
    refused = [{"path": str(path), "reason": reason} for path, reason in report.refused]
    notes = [{"path": str(path), "note": note} for path, note in report.notes]
    if args.json:
        numbers = {
            name: getattr(report, name) for name in ("added", "known", "gone", "renewed", "away")
        }
        doubted = {str(root): photos for root, photos in report.doubted.items()}
        _print_json(
            {
                **numbers,
                "photos": photos,
                "doubted": doubted,
                "not_read": report.not_read,
                "notes": notes,
                "refused": refused,
            }
        )
    else:
        print(
            f"{report.added} added, {report.known} known, {report.gone} gone, "
            f"{len(refused)} refused; the index holds {photos} photos"
        )
        for sentence in report.remarks():
            print(one_line(sentence))
        for item in notes:
            print(f"damaged: {one_line(item['path'])}: {one_line(item['note'])}")
        for item in refused:
            print(f"refused: {one_line(item['path'])}: {one_line(item['reason'])}")
    if not (report.added or report.known or report.away or report.doubted):
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
    from blip2.processing import clean_text
    from index.places import Where
    from index.verdict import CANDIDATES, judge_hits

    if (args.text is None) == (args.photo is None):
        raise UserError("Give either a text to look for or --photo with a photo.")
    if args.photo is not None and args.rerank:
        raise UserError("--rerank compares photos with a text; leave it out with --photo.")
    text = None if args.text is None else clean_text(args.text, "search text")
    folder = None if args.folder is None else Path(os.path.abspath(args.folder))
    where = Where(folder, args.name, args.since, args.until)
    index = _open(args.index, args.retriever, load)
    notes, fits = (), None
    if text is None:
        hits = index.similar(args.photo, args.k, where)
    else:
        found = index.search(text, max(args.k, CANDIDATES), args.rerank, where)
        verdict = judge_hits(index.retriever, found, text)
        hits, notes = found[: args.k], found.notes
        fits = None if verdict is None else verdict.fits
    if args.json:
        found = [{**vars(hit), "path": str(hit.path)} for hit in hits]
        asked = {"text": args.text} if args.photo is None else {"photo": str(args.photo)}
        _print_json({**asked, "hits": found, "fits": fits, "notes": notes})
        return 0
    for hit in hits:
        match = "" if hit.match is None else f"  match {hit.match:.3f}"
        missing = "  (away)" if hit.away else "  (missing)" if hit.missing else ""
        print(f"{hit.rank:4}  {hit.score:.4f}{match}  {one_line(hit.path)}{missing}")
    if where and not hits:
        print("no photo of the index is among those that were asked for", file=sys.stderr)
    if fits is False:
        print("nothing fits well: the model doubts that any photo here shows this", file=sys.stderr)
    _print_notes(notes)
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
        _print_json({"photo": str(args.photo), "texts": named, "notes": found.notes})
        return 0
    for rank, (text, score, match) in enumerate(found, start=1):
        judged = "" if match is None else f"  match {match:.3f}"
        print(f"{rank:4}  {score:.4f}{judged}  {one_line(text)}")
    _print_notes(found.notes)
    return 0


def _info(args: argparse.Namespace, load: Loader) -> int:
    info = _open(args.index, args.retriever, load, needed=False).info()
    if args.json:
        _print_json(info)
    else:
        for key, value in info.items():
            print(f"{key:14} {one_line(value)}")
    return 0


def _verify(args: argparse.Namespace, load: Loader) -> int:
    index = _open(args.index, args.retriever, load, needed=False)
    missing = index.verify()
    if args.json:
        _print_json({"photos": len(index), "missing": [str(path) for path in missing]})
        return 0
    print(f"no damage: {len(index)} photos; {len(missing)} files are missing")
    for path in missing:
        print(f"missing: {one_line(path)}")
    return 0


def _open(folder: Path, name: str | None, load: Loader, *, needed: bool = True) -> "PhotoIndex":
    from index.manifest import Manifest
    from index.search import PhotoIndex

    made_by = Manifest.read(folder).retriever  # says before a model is loaded what is the matter
    if name is None and not needed:
        return PhotoIndex.open(folder, None)
    return PhotoIndex.open(folder, load(name or made_by))


def _look_for_photos(
    paths: list[Path], exclude: Sequence[str] | None = None, kept: "Manifest | None" = None
) -> "Listing":
    """List photos before a model is loaded and a folder made for nothing.

    What an index knows may be away; otherwise a folder that does not exist is a slip of the pen.
    """
    from index.listing import list_photos, resolve_root
    from index.report import count_suffixes

    known = set(kept.roots) if kept else set()
    if exclude is None and kept:
        exclude = kept.exclude
    for path in paths:
        if not os.path.lexists(path) and str(resolve_root(path)) not in known:
            raise UserError(f"{path} does not exist; check the path.")
    listing = list_photos(paths, exclude or ())
    if listing.files or any(str(root) in known for root in listing.roots):
        return listing
    if listing.unreadable:
        folder, reason = listing.unreadable[0]
        raise UserError(f"The folder {folder} cannot be used: {reason}")
    there = count_suffixes(listing.suffixes)
    if there:
        raise UserError(
            f"There are no photos in {paths[0]}, but {there}; give a folder that holds some."
        )
    raise UserError(f"There are no photos in {paths[0]}; give a folder that holds some.")


def _load_retriever(name: str) -> "Blip2Retriever":
    check_model(name, 1, _say)  # before torch is imported, which takes seconds
    from blip2 import Blip2Retriever

    return Blip2Retriever.from_pretrained(name)


def _print_json(value: Any) -> None:
    print(to_json(value, indent=2))


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        _say(f"note: {one_line(note)}")


_RUNS = {
    "build": _build,
    "add": _add,
    "remove": _remove,
    "search": _search,
    "texts": _texts,
    "info": _info,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
