"""Measure a model on shards: captions against their references, or retrieval in both directions.

Examples
--------
::

    python -m train.evaluate caption --model mini --data dev.tar --output caption.json
    python -m train.evaluate retrieval --model mini-itm --data dev.tar --output retrieval.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from blip2.errors import UserError
from blip2.processing import PhotoError, open_photo
from train.reports import check_output, describe_shards, provenance, shorten, write_report
from train.shards import Sample, ShardReport, iter_samples

# (task, model ID, device or None) -> the model
Load = Callable[[str, str, str | None], Any]


def main(argv: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    load : callable, optional
        Makes the model, instead of ``from_pretrained``.

    Returns
    -------
    int
        0, or 2 after an error that the user can put right, said on stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    try:
        check_output(args.output)
        read = ShardReport()
        samples = captioned(iter_samples(args.data, report=read), read, args.limit)
        if not samples:
            raise UserError(f"No photo with captions is in {args.data}; give captioned shards.")
        model = (load or load_model)(args.task, args.model, args.device)
        run = evaluate_captions if args.task == "caption" else evaluate_retrieval
        result = run(model, samples, args)
        report = {
            "task": args.task,
            "model": _describe_model(args.model, model),
            "data": {
                "source": shorten(args.data),
                "shards": describe_shards(read.shards),
                "left_out": [{"sample": shorten(s), "why": why} for s, why in read.broken],
            },
            **result,
            **provenance(argv),
        }
        write_report(args.output, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if read.broken:
        print(f"warning: {read.describe()}", file=sys.stderr)
    for name, value in _flat(report["metrics"]):
        print(f"{name:<20} {'-' if value is None else f'{value:.4f}'}")
    print(f"report: {args.output}")
    return 0


def load_model(task: str, name: str, device: str | None) -> Any:
    """Load the model that a task measures."""
    from blip2 import Blip2, Blip2Retriever

    kind = Blip2 if task == "caption" else Blip2Retriever
    return kind.from_pretrained(name, device=device)


def captioned(samples: Iterator[Sample], read: ShardReport, limit: int | None) -> list[Sample]:
    """Collect the first `limit` photos that open and have captions.

    The others, and a second photo of the same name, are noted as broken in `read`.
    """
    chosen: dict[str, Sample] = {}
    with closing(samples):
        for sample in samples:
            why = None if sample.captions else "it has no captions"
            if sample.image_id in chosen:
                why = "its image_id came before"
            if why is None:
                try:
                    open_photo(sample.image)
                except PhotoError as error:
                    why = str(error)
            if why is not None:
                read.samples -= 1
                read.broken.append((sample.image_id, why))
                continue
            chosen[sample.image_id] = sample
            if len(chosen) == limit:
                break
    return list(chosen.values())


def evaluate_captions(model: Any, samples: list[Sample], args: argparse.Namespace) -> dict:
    """Caption every photo and score the captions.

    Returns
    -------
    dict
        "settings", "tokeniser", "metrics", "note" and "photos" with each caption, its references
        and its CIDEr.
    """
    from train.metrics import score_captions
    from train.scoring import batches, progress

    decoding = {
        "num_beams": args.num_beams,
        "max_new_tokens": args.max_new_tokens,
        "min_new_tokens": args.min_new_tokens,
        "length_penalty": args.length_penalty,
    }
    batch_size = args.batch_size or 16
    captions: list[str] = []
    started = time.monotonic()
    with progress(len(samples), "captions", "photo") as bar:
        for batch in batches(samples, batch_size):
            photos = [open_photo(sample.image) for sample in batch]
            given = model.generate(photos, args.prompt, **decoding)
            if not isinstance(given, list) or len(given) != len(batch):
                raise TypeError(f"generate for {len(batch)} photos gave {type(given).__name__}")
            captions += given
            bar.update(len(batch))
    seconds = time.monotonic() - started
    scores = score_captions(captions, [s.captions for s in samples], meteor=args.meteor)
    return {
        "settings": {
            "prompt": args.prompt or model.default_prompt,
            **decoding,
            "batch_size": batch_size,
        },
        "counts": {
            "photos": len(samples),
            "references": sum(len(sample.captions) for sample in samples),
            "empty_captions": sum(not caption.strip() for caption in captions),
            "seconds_per_photo": round(seconds / len(samples), 4),
        },
        "tokeniser": scores.tokeniser,
        "note": scores.note,
        "metrics": scores.metrics,
        "photos": [
            {"image_id": s.image_id, "caption": c, "references": s.captions, "CIDEr": round(v, 4)}
            for s, c, v in zip(samples, captions, scores.cider, strict=True)
        ],
    }


def evaluate_retrieval(retriever: Any, samples: list[Sample], args: argparse.Namespace) -> dict:
    """Find photos by their captions and captions by their photo.

    Returns
    -------
    dict
        "settings", "counts" and "metrics": "itc" from embeddings alone; with ``k_test``, "itm"
        with the candidates in the order of the match score alone and "itm+itc" in the order of
        its log-odds plus ``itc_weight`` times the cosine, see :func:`joint_score`.
        With ``texts_limit``, "itc_subset" is the first stage asked by the same texts.
    """
    import numpy as np

    from blip2.retrieval import joint_score
    from train.metrics import (
        fit_match_temperature,
        match_candidates,
        recalls,
        reranked_recalls,
    )
    from train.scoring import itc_scores, match_pairs

    texts = [text for s in samples for text in s.captions[: args.captions_per_photo]]
    owned = [len(s.captions[: args.captions_per_photo]) for s in samples]
    photo_of_text = np.repeat(np.arange(len(samples)), owned)  # [T]
    batch_size = args.batch_size or 64
    itc_weight = 1 / retriever.temperature if args.itc_weight is None else args.itc_weight
    scores = itc_scores(retriever, samples, texts, batch_size)  # [T, P]

    subset = None
    if args.texts_limit and args.texts_limit < len(texts):
        subset = np.arange(args.texts_limit) * len(texts) // args.texts_limit
    metrics = {"itc": recalls(scores, photo_of_text)}
    pairs_scored, fitted = 0, {}
    if args.k_test:
        if subset is not None:
            metrics["itc_subset"] = recalls(scores, photo_of_text, subset)

        def match(pairs: np.ndarray) -> np.ndarray:
            nonlocal pairs_scored
            pairs_scored = len(pairs)
            return match_pairs(retriever, samples, texts, pairs, batch_size)

        matched = match_candidates(scores, match, args.k_test, subset)
        fused = joint_score(scores, matched, 1 / itc_weight if itc_weight else np.inf)
        for name, order in (("itm", matched), ("itm+itc", fused)):
            metrics[name] = reranked_recalls(scores, order, photo_of_text, args.k_test, subset)
        factor = fit_match_temperature(
            scores, matched, photo_of_text, retriever.temperature, args.k_test, subset
        )
        fitted = {
            "match_temperature": retriever.match_temperature,
            "match_temperature_fitted": round(factor * retriever.match_temperature, 3),
        }
    return {
        "settings": {
            "captions_per_photo": args.captions_per_photo,
            "k_test": args.k_test,
            "itc_weight": itc_weight,
            "batch_size": batch_size,
            **fitted,
        },
        "counts": {
            "photos": len(samples),
            "texts": len(texts),
            "texts_asking_reranked": len(texts) if subset is None else len(subset),
            "pairs_matched": pairs_scored,
        },
        "metrics": metrics,
    }


def _describe_model(given: str, model: Any) -> dict:
    device = getattr(model, "device", None)
    return {
        "id": shorten(given),
        "name": shorten(str(getattr(model, "name", given))),
        "fingerprint": getattr(model, "fingerprint", None),
        "device": None if device is None else str(device),
    }


def _flat(metrics: dict, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Measure a model on shards of photos with captions.",
        epilog="Example: python -m train.evaluate caption --model mini --data "
        "'dev-*.tar' --output report.json",
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="{caption,retrieval}")
    caption = tasks.add_parser("caption", help="BLEU, METEOR, ROUGE-L and CIDEr of captions")
    retrieval = tasks.add_parser("retrieval", help="recalls at 1, 5 and 10 in both directions")
    for task, model in ((caption, "mini"), (retrieval, "mini-itm")):
        task.epilog = (
            f"Example: python -m train.evaluate {task.prog.split()[-1]} --model {model} "
            "--data 'dev-*.tar' --output report.json"
        )
        add = task.add_argument
        add("--model", required=True, metavar="ID", help=f"such as {model}, or a folder")
        add("--data", required=True, metavar="SHARDS", help="tar, glob, {000..005}, folder, list")
        add("--output", required=True, type=Path, metavar="FILE", help="the report, JSON")
        add("--limit", type=_positive, metavar="N", help="only the first N photos")
        add("--batch-size", type=_positive, metavar="N", help="photos or pairs at a time")
        add("--device", metavar="D", help="such as cpu or cuda:0")
    add = caption.add_argument
    add("--prompt", default="", metavar="TEXT", help="instruction; the model's own by default")
    add("--num-beams", type=_positive, default=5, metavar="N", help="default 5")
    add("--max-new-tokens", type=_positive, default=30, metavar="N", help="default 30")
    add("--min-new-tokens", type=_positive, default=1, metavar="N", help="default 1")
    add("--length-penalty", type=float, default=1.0, metavar="X", help="default 1.0")
    add("--no-meteor", dest="meteor", action="store_false", help="do not wait for its Java program")
    add = retrieval.add_argument
    add("--k-test", type=_count, default=64, metavar="N", help="re-ranked a query; 0: none")
    add("--captions-per-photo", type=_positive, default=5, metavar="N", help="default 5")
    add("--texts-limit", type=_positive, metavar="N", help="re-rank for N evenly spaced texts")
    add("--itc-weight", type=float, metavar="X", help="of the cosine in itm+itc: 1/temperature")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
