"""CapFilt: our captioner writes captions of each photo, our retriever keeps the best (section 3.4).

Every shard becomes one of the same name, in which a photo has its own captions and, behind them,
the best of those that were written for it. Shards that are there already are left alone, so a run
that was stopped goes on.

Examples
--------
::

    python -m train.capfilt 'shards/web-*.tar' --out shards/capfilt
    python -m train.capfilt 'web/*.tar' --out filtered --captioner Salesforce/blip2-opt-2.7b \\
        --retriever Salesforce/blip2-itm-vit-g --candidates 10 --keep 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from blip2.display import one_line, to_json
from blip2.errors import UserError
from train.command import exit_status, positive
from train.shards import Sample, ShardReport, find_shards, iter_samples


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; 2 after an error that the user can put right, said on stderr."""
    args = _parser().parse_args(argv)
    if args.keep > args.candidates:
        raise UserError(f"--keep {args.keep} is more than --candidates {args.candidates}.")
    shards = find_shards(args.data)
    names = [path.name for path in shards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Two shards are named {twice[0]}; filter them into two folders.")
    todo = [path for path in shards if not (args.out / path.name).exists()]
    if todo:
        from blip2 import Blip2, Blip2Retriever

        captioner = Blip2.from_pretrained(args.captioner, device=args.device)
        retriever = Blip2Retriever.from_pretrained(args.retriever, device=args.device)
    for number, path in enumerate(todo, 1):
        print(f"shard {number} of {len(todo)}: {one_line(path.name)}", file=sys.stderr)
        report = filter_shard(path, args.out, captioner, retriever, args)
        print(one_line(f"{path.name}: {report.describe()}"))
    print(f"{len(todo)} shards written to {one_line(args.out)}")


def filter_shard(
    path: Path, out: Path, captioner: Any, retriever: Any, args: argparse.Namespace
) -> ShardReport:
    """Write one shard with the kept captions.

    Parameters
    ----------
    path : Path
        Of a shard.
    out : Path
        Folder for the new one.
    captioner, retriever : Blip2, Blip2Retriever
        They write and choose.
    args : Namespace
        ``prompt``, ``candidates``, ``keep``, ``batch_size``, ``top_p``, ``seed``.

    Returns
    -------
    ShardReport
        Photos that can't be used are named in it, and are not in the new shard.

    Raises
    ------
    UserError
        The shard can't be read or written, or no photo of it can be used.
    """
    from train.prepare import write_shard

    report = ShardReport()
    files = _with_captions(_opened(path, report), captioner, retriever, args)
    aside = out / f"{path.name}.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = write_shard(aside, files)
        if written:
            aside.replace(out / path.name)
    except OSError as error:
        raise UserError(f"Cannot write to {out} ({error}); make room or choose another.") from error
    if not written:
        raise UserError(f"No photo of {path} can be used; {report.describe()}.")
    return report


def best_captions(
    written: Sequence[str], own: Sequence[str], similarity: Sequence[float], keep: int
) -> list[str]:
    """The written captions that are most like their photo, each once and none of its own.

    Parameters
    ----------
    written : sequence of str
        Candidates.
    own : sequence of str
        Captions that the photo has.
    similarity : sequence of float
        Of each candidate with the photo, higher is better.
    keep : int
        How many at most.
    """
    known = {text.lower() for text in own}
    kept = []
    for _, text in sorted(zip(similarity, written, strict=True), key=lambda pair: -pair[0]):
        if text and text.lower() not in known and len(kept) < keep:
            known.add(text.lower())
            kept.append(text)
    return kept


def _opened(path: Path, report: ShardReport) -> Iterator[tuple[Sample, Any]]:
    """Samples with their photos; those that don't open go to the report."""
    from blip2.processing import PhotoError, open_photo

    for sample in iter_samples(path, report=report):
        try:
            photo = open_photo(sample.image)
        except PhotoError as error:
            report.leave_out(sample.image_id, str(error))
            continue
        yield sample, photo


def _with_captions(
    opened: Iterator[tuple[Sample, Any]], captioner: Any, retriever: Any, args: argparse.Namespace
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's files, its captions followed by the kept ones."""
    from blip2.objectives import similarity
    from train.scoring import progress

    number = 0
    with progress(None, "captions", "photo") as bar:
        while batch := list(islice(opened, args.batch_size)):
            photos = [photo for _, photo in batch]
            written = captioner.generate(
                [photo for photo in photos for _ in range(args.candidates)], args.prompt,
                do_sample=True, top_p=args.top_p, seed=args.seed + number, max_new_tokens=30,
            )  # fmt: skip
            texts = retriever.embed_texts(written)  # [B * candidates, d]
            scores = similarity(retriever.embed_images(photos), texts)  # [B, B * candidates]
            for row, (sample, photo) in enumerate(batch):
                mine = slice(row * args.candidates, (row + 1) * args.candidates)
                kept = best_captions(
                    written[mine], sample.captions, scores[row, mine].tolist(),
                    args.keep,
                )  # fmt: skip
                fields = {"image_id": sample.image_id, "captions": [*sample.captions, *kept],
                          "written": kept, "qa": sample.qa, "domain": sample.domain}  # fmt: skip
                text = to_json({k: v for k, v in fields.items() if v}, ensure_ascii=False)
                kind = photo.info["format"].lower()
                suffix = "jpg" if kind == "jpeg" else kind
                yield f"{number:09d}", {suffix: sample.image, "json": text.encode()}
                number += 1
            bar.update(len(batch))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.capfilt",
        description="Write captions of photos and keep the best beside their own.",
        epilog="example: python -m train.capfilt 'shards/web-*.tar' --out shards/capfilt",
    )
    add = parser.add_argument
    add("data", help="shards: tar, glob, {000..005}, folder, list")
    add("--out", required=True, type=Path, metavar="FOLDER", help="for shards of the same names")
    add("--captioner", default="mini", metavar="ID", help="writes (mini)")
    add("--retriever", default="mini-itm", metavar="ID", help="chooses (mini-itm)")
    add("--prompt", default="", metavar="TEXT", help="instruction; the captioner's own by default")
    add("--candidates", type=positive, default=10, metavar="N", help="written for a photo (10)")
    add("--keep", type=positive, default=2, metavar="K", help="of them (2)")
    add("--top-p", type=float, default=0.9, metavar="P", help="of nucleus sampling (0.9)")
    add("--batch-size", type=positive, default=8, metavar="N", help="photos at a time (8)")
    add("--seed", type=int, default=0, metavar="N", help="of the sampling (0)")
    add("--device", metavar="D", help="such as cpu or cuda:0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
