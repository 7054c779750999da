"""Let photos lend each other captions: of those that the retriever finds nearest, the typical ones.

A photo's own captions hold much that no small model can see in it, and a language model which is
made to say it learns the photos by heart. What the nearest captions of *other* photos agree on
(the consensus of Devlin et al., "Exploring Nearest Neighbor Approaches for Image Captioning",
2015) follows from the photo. What stage 2 made of such captions stands in
train/EXPERIMENTS.md.

Every photo keeps its place, name and questions, so that cached features still fit. A photo that is
lent captions has its own in the new shards as ``own_captions``, which nothing reads; one without
captions, or that can't be opened, stays as it is.

Examples
--------
::

    python -m train.consensus 'shards/train-*.tar' --out shards/lent-train
    python -m train.consensus 'web/*.tar' --out web/lent --retriever runs/stage1/model --keep 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip2.display import one_line
from blip2.errors import UserError
from train.command import exit_status, positive
from train.shards import ShardReport, iter_samples

if TYPE_CHECKING:
    from train.rewards import CiderReward
    from train.shards import Sample


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; 2 after an error that the user can put right, said on stderr."""
    args = _parser().parse_args(argv)
    from blip2 import Blip2Retriever
    from train.prepare import check_new, rewritten, tell, write_shards

    check_new(args.out)
    named = {
        sample.image_id
        for sample in iter_samples(args.source, with_image=False, report=ShardReport())
        if sample.captions
    }
    if len(named) < 2:
        raise UserError(f"{len(named)} photos have captions; captions are lent among two or more.")
    retriever = Blip2Retriever.from_pretrained(args.retriever, device=args.device)
    report = ShardReport()
    samples = iter_samples(args.source, report=report)
    lent = list(lend(samples, retriever, args.nearest, args.keep, args.batch_size))

    def with_lent(number: int, sample: Sample, fields: dict[str, Any]) -> dict[str, Any]:
        if "own_captions" in fields:
            raise UserError(
                f"The captions of {sample.image_id} are lent already; lend from the shards with "
                "the photos' own."
            )
        if not lent[number]:
            return {}
        own = sample.captions if args.own else []
        both = list(dict.fromkeys([*own, *lent[number]]))  # each wording once
        return {"captions": both, "own_captions": sample.captions}

    files = rewritten(args.source, ShardReport(), with_lent)
    shards = write_shards(args.out, files, args.per_shard)
    count = sum(bool(captions) for captions in lent)
    summary = f"{count} of {len(lent)} photos were lent captions, in {len(shards)} shards"
    tell(report, shards, summary)


def lend(
    samples: Iterator[Sample], retriever: Any, nearest: int, keep: int, batch_size: int = 32
) -> Iterator[list[str]]:
    """Captions of other photos for each photo.

    Parameters
    ----------
    samples : iterator of Sample
        Photos, ``P`` of them with captions, ``T`` of these together.
    retriever : Blip2Retriever
        Says which captions are near.
    nearest : int
        Captions that have a say.
    keep : int
        How many of them to lend at most: those that agree most with the others.
    batch_size : int
        Photos that the encoder sees at once.

    Yields
    ------
    list of str
        The most agreed on first; empty for a photo without captions, one that can't be opened,
        and where the nearest captions say nothing that tells photos apart.

    Notes
    -----
    Each photo is compared with all captions, so time grows with ``P`` times ``T``.
    """
    from train.rewards import CiderReward
    from train.scoring import embed_texts, progress

    names, embeds, own = embed_photos(samples, retriever, batch_size)
    captions = [text for mine in own for text in mine]
    # By name: the same photo may stand in two shards, and doesn't lend to itself.
    numbers = np.unique(names, return_inverse=True)[1]
    owner = np.repeat(numbers, [len(mine) for mine in own])  # [T]
    texts = embed_texts(retriever, captions)  # [T, d]
    grams = NGrams(CiderReward([mine for mine in own if mine], end=""), captions)
    with progress(len(own), "consensus", "photo") as bar:
        for photo, queries in enumerate(embeds):
            bar.update()
            if queries is None or not own[photo]:
                yield []
                continue
            near = (texts @ queries.T).max(1)  # [T]
            others = np.flatnonzero(owner != numbers[photo])
            count = min(nearest, len(others))
            some = others[np.argpartition(-near[others], count - 1)[:count]] if count else others
            yield grams.most_agreed(np.sort(some), keep)


def embed_photos(
    samples: Iterator[Sample], retriever: Any, batch_size: int
) -> tuple[list[str], list[np.ndarray | None], list[list[str]]]:
    """Of each photo its name, queries ``[Q, d]`` (None if it can't be opened) and captions."""
    import torch

    from blip2.processing import PhotoError, open_photo
    from train.rows import clean_caption
    from train.scoring import progress

    names: list[str] = []
    embeds: list[np.ndarray | None] = []
    own: list[list[str]] = []
    pixels: dict[int, Any] = {}

    def embed() -> None:
        if pixels:
            found = retriever.embed_pixels(torch.stack(list(pixels.values())))  # [B, Q, d]
            for place, queries in zip(pixels, np.asarray(found, dtype=np.float32), strict=True):
                embeds[place] = queries
        pixels.clear()

    with progress(None, "photos", "photo") as bar:
        for sample in samples:
            bar.update()
            names.append(sample.image_id)
            own.append([clean_caption(text) for text in sample.captions])
            embeds.append(None)
            try:
                pixels[len(own) - 1] = retriever.preprocess(open_photo(sample.image))
            except PhotoError as error:
                print(one_line(f"left as it is: {sample.image_id}: {error}"), file=sys.stderr)
            if len(pixels) == batch_size:
                embed()
    embed()
    return names, embeds, own


class NGrams:
    """Captions by their n-grams, for how much they agree.

    Parameters
    ----------
    reward : CiderReward
        Weighs n-grams.
    captions : sequence of str
        All that may be compared.
    """

    def __init__(self, reward: CiderReward, captions: Sequence[str]) -> None:
        self.captions = captions
        number: dict[tuple[str, ...], int] = {}
        self.lengths = np.zeros(len(captions))
        self.numbers, self.weights = [], []
        for place, (length, weights) in enumerate(reward.unit_weights(captions)):
            self.lengths[place] = length
            self.numbers.append(np.array([number.setdefault(g, len(number)) for g in weights]))
            self.weights.append(np.array(list(weights.values()), dtype=np.float32))

    def agreement(self, some: np.ndarray) -> np.ndarray:
        """How well each of ``some`` captions agrees with the others, ``[S]``.

        The sum of a tenth of its CIDEr with each, without the clipping of CIDEr-D.
        """
        from train.rewards import SIGMA

        numbers = [self.numbers[place] for place in some]
        rows = np.repeat(np.arange(len(some)), [len(each) for each in numbers])
        found, columns = np.unique(np.concatenate(numbers), return_inverse=True)
        matrix = np.zeros((len(some), len(found)), dtype=np.float32)
        matrix[rows, columns] = np.concatenate([self.weights[place] for place in some])
        lengths = self.lengths[some]
        apart = lengths[:, None] - lengths[None]
        alike = matrix @ matrix.T * np.exp(-(apart**2) / (2 * SIGMA**2))
        return alike.sum(1) - alike.diagonal()

    def most_agreed(self, some: np.ndarray, keep: int) -> list[str]:
        """Those of ``some`` captions that agree most with the others, each wording once."""
        if not len(some):
            return []
        kept: dict[tuple[int, ...], str] = {}
        for place in some[np.argsort(-self.agreement(some), kind="stable")]:
            wording = tuple(np.sort(self.numbers[place]).tolist())
            if wording and len(kept) < keep:
                kept.setdefault(wording, self.captions[place])
        return list(kept.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.consensus",
        description="Give photos captions of other photos that their nearest captions agree on.",
        epilog="example: python -m train.consensus 'shards/train-*.tar' --out shards/lent-train",
    )
    add = parser.add_argument
    add("source", help="shards with captions: tar, glob, {000..005}, folder, list")
    add("--out", required=True, type=Path, metavar="NAME", help="shards become NAME-000000.tar ...")
    add("--retriever", default="mini-itm", metavar="ID", help="says what is near (mini-itm)")
    add("--nearest", type=positive, default=200, metavar="N", help="have a say (200)")
    add("--keep", type=positive, default=3, metavar="K", help="captions of a photo (3)")
    add("--own", action="store_true", help="keep a photo's own captions, too, before them")
    add("--per-shard", type=positive, default=1000, metavar="N", help="photos (1000)")
    add("--batch-size", type=positive, default=32, metavar="N", help="photos at a time (32)")
    add("--device", metavar="D", help="such as cpu or cuda:0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
