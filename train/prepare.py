"""Turn photos with captions into WebDataset shards, which training and evaluation read.

Examples
--------
::

    python -m train.prepare photos --out shards/train
    python -m train.prepare captions_train2017.json@train2017 --out shards/coco --side 256
    python -m train.prepare dataset_coco.json@images#test --out shards/coco-test --no-shuffle
    python -m train.prepare 'vqa/*.tar' --out shards/coco-vqa --held-out 0.1
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from blip2.display import one_line, to_json
from blip2.errors import UserError
from train.command import exit_status, positive
from train.shards import Sample, ShardReport, iter_files

KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # others become JPEGs: all can read these
HELD = 4000  # samples in memory while they are shuffled


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; 2 after an error that the user can put right, said on stderr."""
    args = _parser().parse_args(argv)
    seed = None if args.no_shuffle else args.seed
    if not args.held_out:
        made = [prepare(args.source, args.out, args.per_shard, args.side, seed)]
    else:
        made = hold_out(args.source, args.out, args.held_out, args.per_shard, args.side, seed)
    for report, shards in made:
        tell(
            report, shards, f"{report.samples} photos in {len(shards)} shards, "
            f"{len(report.broken)} left out"
        )  # fmt: skip


def tell(report: ShardReport, shards: Sequence[Path], summary: str) -> None:
    """Say what was left out on stderr, a summary, and how a recipe names the new shards."""
    for name, why in report.broken:
        print(one_line(f"left out: {name}: {why}"), file=sys.stderr)
    print(summary)
    print(one_line(f"data: {shards[0].parent}/{shards[0].name.rpartition('-')[0]}-*.tar"))


def hold_out(
    source: str,
    out: Path,
    share: float,
    per_shard: int = 1000,
    side: int = 0,
    seed: int | None = 0,
) -> list[tuple[ShardReport, list[Path]]]:
    """Write the last photos by name to ``held-<out>-000000.tar``, never to be trained on.

    Which they are depends on the names alone, so that everybody holds out the same.

    Parameters
    ----------
    share : float
        Of the photos, rounded down.
    source, out, per_shard, side, seed
        As for :func:`prepare`, which says the rest; what it gives comes twice, first of the others.

    Raises
    ------
    UserError
        As there; also where nothing would be held out, or nothing left.
    """
    from train.sources import find_sources

    parts = find_sources(source)
    samples = (sample for part in parts for sample in part.samples(ShardReport(), False))
    names = sorted({sample.image_id for sample in samples})
    if len(parts) > 1:
        raise UserError("Photos are held out of one source at a time; name one.")
    held = set(names[len(names) - int(len(names) * share) :])
    if not 0 < len(held) < len(names):
        raise UserError(f"A share of {share:g} of {len(names)} photos can't be held out.")
    aside = out.with_name(f"held-{out.name}")
    for place in (out, aside):
        check_new(place)
    return [
        prepare(source, place, per_shard, side, seed, wanted)
        for place, wanted in ((out, set(names) - held), (aside, held))
    ]


def prepare(
    source: str,
    out: Path,
    per_shard: int = 1000,
    side: int = 0,
    seed: int | None = 0,
    wanted: Collection[str] | None = None,
) -> tuple[ShardReport, list[Path]]:
    """Write shards ``<out>-000000.tar`` and so on.

    Every photo is decoded once, so that one that can't be is left out here and not met in
    training. All shards are written aside; they get their names when the last is finished.

    Parameters
    ----------
    source : str
        See :mod:`train.sources`; weights are refused.
    out : Path
        Folder and beginning of the shards' names.
    per_shard : int
        Photos of one shard.
    side : int
        Scale the whole photo to a square of this many pixels, as evaluation does, and write JPEG;
        0 keeps the files as they are.
    seed : int, optional
        Of the order; None keeps the source's.
    wanted : collection of str, optional
        Take only photos of these names.

    Returns
    -------
    ShardReport
        What was taken, and what was left out with the reason.
    list of Path
        The shards.

    Raises
    ------
    UserError
        The source can't be read, holds nothing that can be used, or shards of this name exist.
    """
    from tqdm import tqdm

    from train.sources import find_sources

    sources = find_sources(source)
    if any(part.weight != 1 for part in sources):
        raise UserError("Shards hold each photo once; give the weight in the recipe instead.")
    check_new(out)
    report = ShardReport()
    samples = (sample for part in sources for sample in part.samples(report))
    if wanted is not None:
        samples = _wanted(samples, wanted, report)
    if seed is not None:
        samples = _shuffled(samples, seed)
    every = 0.1 if sys.stderr.isatty() else 15
    bar = tqdm(samples, desc="photos", unit="photo", mininterval=every)
    shards = write_shards(out, _usable(bar, side, report), per_shard)
    if not shards:
        raise UserError(f"No photo of {source} can be used; {report.describe()}.")
    return report, shards


def check_new(out: Path) -> None:
    """Make sure that shards of this name can be made, before the work begins.

    Raises
    ------
    UserError
        `out` names no file, or shards of this name exist.
    """
    if not out.name:
        raise UserError(f"--out {out} names a folder alone; add a name, such as {out}/train.")
    if list(out.parent.glob(f"{out.name}-*.tar")):
        raise UserError(
            f"Shards {out}-*.tar are there already; remove them or choose another --out."
        )


def write_shards(
    out: Path, samples: Iterator[tuple[str, dict[str, bytes]]], per_shard: int
) -> list[Path]:
    """Write shards ``<out>-000000.tar`` and so on; they get their names when all are finished.

    Parameters
    ----------
    out : Path
        Folder and beginning of the shards' names.
    samples : iterator
        Names and files by suffix; without any, no shard is written.
    per_shard : int
        Samples of one shard.

    Raises
    ------
    UserError
        They can't be written.
    """
    aside: list[Path] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        path = _aside(out, 0)
        while write_shard(path, samples, per_shard):
            aside.append(path)
            path = _aside(out, len(aside))
        shards = [path.with_suffix("") for path in aside]
        for path, shard in zip(aside, shards, strict=True):
            os.replace(path, shard)
    except OSError as error:
        raise UserError(f"Cannot write shards to {out.parent} ({error}); make room.") from error
    finally:
        for path in aside:
            path.unlink(missing_ok=True)
    return shards


def _wanted(
    samples: Iterator[Sample], names: Collection[str], report: ShardReport
) -> Iterator[Sample]:
    for sample in samples:
        if sample.image_id in names:
            yield sample
        else:
            report.samples -= 1


def _shuffled(samples: Iterator[Sample], seed: int) -> Iterator[Sample]:
    """The samples in an order that the seed decides, with no more than ``HELD`` in memory."""
    draw = random.Random(seed)
    held: list[Sample] = []
    for sample in samples:
        if len(held) < HELD:
            held.append(sample)
            continue
        at = draw.randrange(HELD)
        yield held[at]
        held[at] = sample
    draw.shuffle(held)
    yield from held


def _usable(
    samples: Iterator[Sample], side: int, report: ShardReport
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's files by suffix, under a name of its own; the others go to the report."""
    seen: set[str] = set()
    for number, sample in enumerate(samples):
        files = _files(sample, side)
        if isinstance(files, dict) and sample.image_id in seen:
            files = "its image_id came before"
        if isinstance(files, str):
            report.leave_out(sample.image_id, files)
            continue
        seen.add(sample.image_id)
        yield f"{number:09d}", files


def _files(sample: Sample, side: int) -> dict[str, bytes] | str:
    from PIL import Image

    from blip2.processing import PhotoError, open_photo

    try:
        photo = open_photo(sample.image)
    except PhotoError as error:
        return str(error)
    image, suffix = sample.image, "" if side else KEPT.get(photo.info["format"], "")
    if not suffix:  # asked for, or of a kind that shards don't hold
        if side:
            photo = photo.resize((side, side), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        photo.save(out, "JPEG", quality=92)
        image, suffix = out.getvalue(), "jpg"
    fields = {"image_id": sample.image_id, "captions": sample.captions, "qa": sample.qa,
              "domain": sample.domain}  # fmt: skip
    text = to_json({key: value for key, value in fields.items() if value}, ensure_ascii=False)
    return {suffix: image, "json": text.encode()}


def _aside(out: Path, number: int) -> Path:
    return out.with_name(f"{out.name}-{number:06d}.tar.partial")


def rewritten(
    source: str,
    report: ShardReport,
    change: Callable[[int, Sample, dict[str, Any]], dict[str, Any]],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples with their files as they are, but for some fields of their json.

    Parameters
    ----------
    source : str
        Shards.
    report : ShardReport
        Counts the samples; a broken one is noted in it and left out.
    change : callable
        Takes a sample's number, the sample and its json, and gives the fields that are new; none
        leave the json as it is.

    Yields
    ------
    str, dict
        Names, each once, and files by suffix, for :func:`write_shards`.
    """
    names: set[str] = set()
    for number, (name, files, sample) in enumerate(iter_files(source, report)):
        suffix = next(suffix for suffix in files if suffix.lower() == "json")
        fields = json.loads(files[suffix])
        new = change(number, sample, fields)
        if new or name in names:
            fields.setdefault("image_id", sample.image_id)  # a new name must not change it
            files[suffix] = json.dumps(fields | new).encode()
        while name in names:  # two shards may use the same
            name = f"{name}-{number}"
        names.add(name)
        yield name, files


def write_shard(
    path: Path, samples: Iterator[tuple[str, dict[str, bytes]]], most: int | None = None
) -> int:
    """Write the next samples to a shard, and say how many; none leave no file.

    Parameters
    ----------
    path : Path
        Of the shard.
    samples : iterator
        Names and files by suffix.
    most : int, optional
        Samples of one shard.
    """
    count = 0
    try:
        with tarfile.open(path, "w") as tar:
            for name, files in samples:
                for suffix, data in files.items():
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                count += 1
                if count == most:
                    break
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if not count:
        path.unlink()
    return count


def share(text: str) -> float:
    """A share of all, above 0 and below 1, for a command line."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.prepare",
        description="Turn photos with captions into WebDataset shards.",
        epilog="example: python -m train.prepare captions_train2017.json@train2017 --out "
        "shards/coco --side 256",
    )
    add = parser.add_argument
    add("source", help="a folder with texts beside the photos, JSON@FOLDER[#SPLIT], or shards")
    add("--out", required=True, type=Path, metavar="NAME", help="shards become NAME-000000.tar ...")
    add("--per-shard", type=positive, default=1000, metavar="N", help="photos (1000)")
    add("--side", type=positive, default=0, metavar="PIXELS", help="scale to squares of this side")
    add("--seed", type=int, default=0, metavar="N", help="of the order (0)")
    add("--held-out", type=share, default=0, metavar="SHARE",
        help="of the photos, the last by name: into held-NAME-000000.tar ...")  # fmt: skip
    add("--no-shuffle", action="store_true", help="keep the order")
    return parser


if __name__ == "__main__":
    sys.exit(main())
