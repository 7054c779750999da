"""Make questions with answers from captions, and write them into shards of the same photos.

Photos, their order, names and captions stay as they are, so that cached features still fit;
questions that a photo has already stay first.

Examples
--------
::

    python -m train.make_qa 'shards/train-*.tar' --out shards/train-qa
    python -m train.make_qa shards/dev.tar --out shards/dev-qa --seed 1
    python -m train.make_qa 'shards/vqa-*.tar' --out shards/vqa-check --kinds check
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.command import exit_status, positive
from train.shards import ShardReport, iter_samples

if TYPE_CHECKING:
    from train.checks import Known
    from train.presence import Statistics
    from train.shards import Sample

KINDS = ("object", "color", "number", "action", "yes/no")
CHECK = "check"  # made only where it is asked for, of the photo's other questions, too


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; 2 after an error that the user can put right, said on stderr."""
    from train.prepare import tell

    args = _parser().parse_args(argv)
    settings = args.per_shard, args.seed, args.every, args.kinds
    report, shards, made = make_qa(args.source, args.out, *settings)
    for kind, count in sorted(made.items()):
        print(f"{kind:<10} {count}")
    summary = f"{made.total()} questions on {report.samples} photos in {len(shards)} shards"
    tell(report, shards, summary)


def make_qa(
    source: str,
    out: Path,
    per_shard: int = 1000,
    seed: int = 0,
    every: int = 1,
    kinds: Sequence[str] = KINDS,
) -> tuple[ShardReport, list[Path], Counter]:
    """Write shards ``<out>-000000.tar`` and so on with the questions.

    Parameters
    ----------
    source : str
        Shards with captions.
    out : Path
        Folder and beginning of the shards' names.
    per_shard : int
        Photos of one shard.
    seed : int
        Of the choice among questions.
    every : int
        Ask about every Nth photo alone, from the first; the others stay as they are.
    kinds : sequence of str
        Types of questions that are kept, of those that are made; the others are left out after
        the choice, so the kept ones are the same whatever else is kept. With "check" the photo's
        open questions, people's and made ones, are asked by yes and no, too
        (:mod:`train.checks`).

    Returns
    -------
    ShardReport
        Photos that were read, and broken ones with the reason.
    list of Path
        The shards.
    Counter
        Made questions by type, and "yes" and "no" apart.

    Raises
    ------
    UserError
        The source can't be read, or shards of this name exist.
    """
    from train.checks import Known
    from train.phrases import take_apart
    from train.prepare import check_new, write_shards
    from train.presence import Statistics
    from train.questions import make_questions

    check_new(out)
    statistics, known = Statistics(), None
    for sample in iter_samples(source, with_image=False, report=ShardReport()):
        statistics.add([take_apart(text) for text in sample.captions])
    if CHECK in kinds:
        known = Known()
        for sample in iter_samples(source, with_image=False, report=ShardReport()):
            draw = random.Random(f"{seed}/{sample.image_id}")
            known.add([*sample.qa, *make_questions(sample.captions, statistics, draw)])
    report, made = ShardReport(), Counter()
    files = _with_questions(source, report, (statistics, known), made, seed, every, kinds)
    return report, write_shards(out, files, per_shard), made


def _with_questions(
    source: str,
    report: ShardReport,
    of_all: tuple[Statistics, Known | None],
    made: Counter,
    seed: int,
    every: int,
    kinds: Sequence[str],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's files, its json with the questions made for it."""
    from train.checks import make_checks
    from train.phrases import take_apart
    from train.prepare import rewritten
    from train.questions import make_questions
    from train.scoring import progress

    statistics, known = of_all

    def with_questions(number: int, sample: Sample, fields: dict[str, Any]) -> dict[str, Any]:
        bar.update()
        if number % every:
            return {}
        draw = random.Random(f"{seed}/{sample.image_id}")
        open_ones = make_questions(sample.captions, statistics, draw)
        questions = [entry for entry in open_ones if entry["question_type"] in kinds]
        if known is not None:
            words = [word for text in sample.captions for word in take_apart(text).tokens]
            questions += make_checks([*sample.qa, *open_ones], words, known, draw)
        for entry in questions:
            kind = entry["question_type"]
            made[f"{kind} {entry['answers'][0]}" if kind in {"yes/no", CHECK} else kind] += 1
        return {"qa": [*sample.qa, *questions]} if questions else {}

    with progress(None, "questions", "photo") as bar:
        yield from rewritten(source, report, with_questions)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.make_qa",
        description="Make questions with answers from the captions of photos.",
        epilog="example: python -m train.make_qa 'shards/train-*.tar' --out shards/train-qa",
    )
    add = parser.add_argument
    add("source", help="shards with captions: tar, glob, {000..005}, folder, list")
    add("--out", required=True, type=Path, metavar="NAME", help="shards become NAME-000000.tar ...")
    add("--per-shard", type=positive, default=1000, metavar="N", help="photos (1000)")
    add("--every", type=positive, default=1, metavar="N", help="ask about every Nth photo (all)")
    add("--seed", type=int, default=0, metavar="N", help="of the choice among questions (0)")
    add("--kinds", type=_kinds, default=KINDS, metavar="TYPE,TYPE",
        help=f"types of questions to keep ({','.join(KINDS)}); check: yes and no on what the "
             "photo's other questions ask, too")  # fmt: skip
    return parser


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(kind.strip() for kind in text.split(","))
    known = (*KINDS, CHECK)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there are no questions of type {', '.join(unknown)}; choose {', '.join(known)}"
        )
    return kinds


if __name__ == "__main__":
    sys.exit(main())
