"""What `train.evaluate` measures: captions, answers, retrieval; each from samples to figures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from blip2.errors import UserError
from blip2.processing import PhotoError, open_photo
from train.shards import Sample, ShardReport


def usable(
    samples: Iterator[Sample], read: ShardReport, limit: int | None, what: str = "captions"
) -> list[Sample]:
    """Collect the first `limit` photos that open and have text.

    The others, and a second photo of the same name, are noted as broken in `read`.

    Parameters
    ----------
    samples : iterator of Sample
        Closed at the end.
    read : ShardReport
        Of these samples.
    limit : int, optional
        Photos; all by default.
    what : str
        "captions" or "qa".
    """
    chosen: dict[str, Sample] = {}
    with closing(samples):
        for sample in samples:
            why = None if getattr(sample, what) else f"it has no {what}"
            if sample.image_id in chosen:
                why = "its image_id came before"
            if why is None:
                try:
                    open_photo(sample.image)
                except PhotoError as error:
                    why = str(error)
            if why is not None:
                read.leave_out(sample.image_id, why)
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
        "settings", "tokeniser", "metrics" (where the photos are of several domains, as in NoCaps,
        of each by itself, too), "note" and "photos" with each caption, its references and its
        CIDEr.
    """
    from train.metrics import score_captions

    decoding, batch_size = _decoding(args), args.batch_size or 16
    started = time.monotonic()
    captions = _generate(
        model, [(s, args.prompt) for s in samples], decoding, batch_size, "captions", "photo"
    )
    seconds = time.monotonic() - started
    references = [sample.captions for sample in samples]
    scores = score_captions(captions, references, meteor=args.meteor)
    domains: dict[str, dict] = {}
    for domain in sorted({sample.domain for sample in samples} - {""}):
        rows = [row for row, sample in enumerate(samples) if sample.domain == domain]
        own = score_captions(
            [captions[row] for row in rows], [references[row] for row in rows], meteor=False
        )
        domains[domain] = own.metrics
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
        "metrics": scores.metrics | domains,
        "photos": [
            {"image_id": s.image_id, "caption": c, "references": s.captions, "CIDEr": round(v, 4)}
            for s, c, v in zip(samples, captions, scores.cider, strict=True)
        ],
    }


def evaluate_answers(model: Any, samples: list[Sample], args: argparse.Namespace) -> dict:
    """Ask every question of every photo and score the answers.

    Returns
    -------
    dict
        "settings", "counts", "metrics" (see :class:`train.answers.AnswerScores`), "constants",
        "by_type" and "yes_no" (see :mod:`train.breakdown`), and "answers" with each question, what
        was said, what people said, and the score.

    Raises
    ------
    UserError
        No question has an answer.
    """
    from train.answers import score_answers
    from train.breakdown import by_type, kind_of, yes_no

    asked = [(sample, entry) for sample in samples for entry in sample.qa if entry["answers"]]
    if not asked:
        raise UserError(f"No question in {args.data} has an answer; give shards with answers.")
    decoding, batch_size = _decoding(args), args.batch_size or 16
    form = args.prompt or model.question_form
    if "{}" not in form:
        raise UserError(f"The prompt {form!r} has no {{}} where the question shall stand; add it.")
    started = time.monotonic()
    answers = _generate(
        model,
        [(sample, form.replace("{}", entry["question"])) for sample, entry in asked],
        decoding, batch_size, "answers", "question",
    )  # fmt: skip
    seconds = time.monotonic() - started
    given = [entry["answers"] for _, entry in asked]
    types = [str(entry.get("answer_type", "any")) for _, entry in asked]
    scores = score_answers(answers, given, types)
    return {
        "settings": {"prompt": form, **decoding, "batch_size": batch_size},
        "counts": {
            "photos": len(samples),
            "questions": len(asked),
            "seconds_per_question": round(seconds / len(asked), 4),
        },
        "metrics": scores.metrics,
        "constants": scores.constants,
        "by_type": by_type(answers, given, [kind_of(entry) for _, entry in asked]),
        "yes_no": yes_no(answers, given),
        "answers": [
            {"image_id": sample.image_id, "question": entry["question"], "type": kind,
             "answer": answer, "given": entry["answers"], "score": round(score, 4)}
            for (sample, entry), kind, answer, score in zip(
                asked, types, answers, scores.each, strict=True
            )
        ],
    }  # fmt: skip


def _decoding(args: argparse.Namespace) -> dict[str, Any]:
    names = ("num_beams", "max_new_tokens", "min_new_tokens", "length_penalty")
    return {name: getattr(args, name) for name in names}


def _generate(
    model: Any,
    asked: Sequence[tuple[Sample, str]],
    decoding: dict[str, Any],
    batch_size: int,
    what: str,
    unit: str,
) -> list[str]:
    """What the model says to each photo and prompt, in order."""
    from train.scoring import batches, progress

    said: list[str] = []
    with progress(len(asked), what, unit) as bar:
        for batch in batches(asked, batch_size):
            photos = [open_photo(sample.image) for sample, _ in batch]
            given = model.generate(photos, [prompt for _, prompt in batch], **decoding)
            if not isinstance(given, list) or len(given) != len(batch):
                raise TypeError(f"generate for {len(batch)} photos gave {type(given).__name__}")
            said += given
            bar.update(len(batch))
    return said


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
            "texts_limit": args.texts_limit,
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
