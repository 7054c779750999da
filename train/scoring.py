"""Scores between texts and photos, from a retriever: of all pairs (ITC) or of chosen ones (ITM)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from blip2.processing import open_photo
from train.shards import Sample

TEXT_CHUNK = 512  # texts embedded between two steps of the progress bar


def itc_scores(
    retriever: Any, samples: Sequence[Sample], texts: Sequence[str], batch_size: int
) -> np.ndarray:
    """Compare all texts with all photos by their embeddings.

    Parameters
    ----------
    retriever : Blip2Retriever
        Embeds both.
    samples : sequence of Sample
        ``P`` photos that open.
    texts : sequence of str
        ``T`` texts.
    batch_size : int
        Photos that the encoder sees at once.

    Returns
    -------
    ndarray
        ``[T, P]``, the cosine of a text and the nearest of a photo's queries.
    """
    text_embeds = embed_texts(retriever, texts)  # [T, d]
    columns = []
    with progress(len(samples), "photos", "photo") as bar:
        for batch in batches(samples, batch_size):
            queries = np.asarray(retriever.embed_pixels(_pixels(retriever, batch)))  # [B, Q, d]
            cosine = np.tensordot(text_embeds, queries.astype(np.float32), (1, 2))  # [T, B, Q]
            columns.append(cosine.max(2))
            bar.update(len(batch))
    return np.concatenate(columns, axis=1)


def embed_texts(retriever: Any, texts: Sequence[str]) -> np.ndarray:
    """Embed texts ``[T, d]`` with a progress bar."""
    embedded = []
    with progress(len(texts), "texts", "text") as bar:
        for chunk in batches(texts, TEXT_CHUNK):
            embedded.append(np.asarray(retriever.embed_texts(chunk), dtype=np.float32))
            bar.update(len(chunk))
    return np.concatenate(embedded)


def match_pairs(
    retriever: Any,
    samples: Sequence[Sample],
    texts: Sequence[str],
    pairs: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """ITM probabilities ``[N]`` of (photo, text) pairs ``[N, 2]`` that are sorted by photo.

    Each photo passes the encoder once: photos are taken `batch_size` at a time, and all their
    pairs are scored before the next. Texts of like length stand in one batch, to pad little.

    Parameters
    ----------
    retriever : Blip2Retriever
        ``image_states(pixels [B, 3, S, S])`` gives what a pair needs of each photo, with
        ``select(index)``; ``match_states(states, texts)`` the probability of each pair.
    samples, texts : sequence
        What the pairs' two indices point to.
    pairs : ndarray
        ``[N, 2]`` integers.
    batch_size : int
        Photos, and pairs, that the model sees at once.
    """
    scores = np.empty(len(pairs))
    lengths = np.array([len(text) for text in texts])
    with progress(len(pairs), "matching", "pair") as bar, torch.no_grad():
        for first in range(0, len(samples), batch_size):
            batch = samples[first : first + batch_size]
            bounds = np.searchsorted(pairs[:, 0], [first, first + len(batch)])
            mine = np.arange(*bounds)
            if not len(mine):
                continue
            mine = mine[np.argsort(lengths[pairs[mine, 1]], kind="stable")]
            states = retriever.image_states(_pixels(retriever, batch))
            for some in np.split(mine, range(batch_size, len(mine), batch_size)):
                chosen = states.select(torch.from_numpy(pairs[some, 0] - first))
                asked = [texts[i] for i in pairs[some, 1]]
                given = retriever.match_states(chosen, asked)  # [B]
                scores[some] = given.double().cpu().numpy()
                bar.update(len(some))
    return scores


def _pixels(retriever: Any, samples: Sequence[Sample]) -> torch.Tensor:
    return torch.stack([retriever.preprocess(open_photo(s.image)) for s in samples])


def batches(items: Sequence, size: int) -> Iterator[Sequence]:
    """Cut a sequence into runs of `size`; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def progress(total: int | None, what: str, unit: str) -> tqdm:
    """Make a progress bar on stderr; a log file gets a line now and then."""
    every = 0.1 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=what, unit=unit, mininterval=every)
