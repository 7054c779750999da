"""What a search gives: photos for a text or a photo, and texts for a photo."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blip2.errors import UserError
from index.places import Place, Where

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from blip2.read_text import ReadText

T = TypeVar("T")


@dataclass(frozen=True)
class Hit:
    """A photo found.

    Parameters
    ----------
    rank : int
        From 1.
    path : Path
        Where the photo is; the first that exists of its copies.
    score : float
        Similarity of text and photo, -1 to 1.
    match : float or None
        Probability by ITM that they belong together; None where it was not computed.
    missing : bool
        The file was deleted since it was indexed, or can no longer be opened.
    size : int
        Of the file, in bytes.
    modified : str
        When it was last changed, ISO 8601, UTC.
    photo : int
        Its number in the index.
    away : bool
        It is missing because its drive, or the whole folder that was indexed, is not there.
    """

    rank: int
    path: Path
    score: float
    match: float | None
    missing: bool
    size: int = field(default=0, compare=False)
    modified: str = field(default="", compare=False)
    photo: int = field(default=0, compare=False)
    away: bool = field(default=False, compare=False)


class Results(list[T]):
    """What was found for a text, best first.

    Attributes
    ----------
    notes : tuple of str
        A sentence about each way in which the model did not read the text; see
        `blip2.read_text.ReadText`.
    """

    def __init__(self, found: Iterable[T] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(found)
        self.notes = tuple(notes)


def best_texts(
    retriever: "Blip2Retriever", photo: Any, texts: list[str], rerank: bool = False
) -> Results[tuple[str, float, float | None]]:
    """Order texts by how well they describe a photo.

    Parameters
    ----------
    retriever : Blip2Retriever
        The model.
    photo
        Everything that `blip2.processing.open_photo` takes.
    texts : list of str
        To choose from.
    rerank : bool
        Order by the joint score of similarity and ITM.

    Returns
    -------
    Results of (str, float, float or None)
        Text, similarity and, where it was asked for, the probability by ITM; best first, equal
        ones in their order.

    Raises
    ------
    UserError
        If there is no text, the model knows no word of one, or the photo cannot be used.
    """
    from blip2.processing import clean_text
    from blip2.read_text import quoted
    from blip2.retrieval import joint_score

    if not texts:
        raise UserError("There are no texts to choose from; give at least one.")
    texts = [clean_text(text, "text") for text in texts]
    notes = [f"{quoted(text)}: {note}" for text in texts for note in _read(retriever, text).notes]
    queries = retriever.embed_images([photo])[0]  # [Q, d]
    scores = (retriever.embed_texts(texts) @ queries.T).amax(1).tolist()
    matches: list[float | None] = [None] * len(texts)
    order = scores
    if rerank:
        matches = retriever.match([photo] * len(texts), texts).tolist()
        order = joint_score(scores, matches, retriever.temperature).tolist()
    best = sorted(range(len(texts)), key=lambda i: -order[i])
    return Results(((texts[i], scores[i], matches[i]) for i in best), notes)


def _read(retriever: "Blip2Retriever", text: str) -> "ReadText":
    """Read one of several texts; an error says which."""
    from blip2.read_text import UnreadableTextError, quoted

    try:
        return retriever.read_text(text)
    except UnreadableTextError as error:
        raise UnreadableTextError(f"{quoted(text)} cannot be compared: {error}") from None


def make_hit(photo: int, score: float, places: list[Place], where: Where | None) -> Hit:
    """A photo at the first of its files that is asked for and exists."""
    fitting = [place for place in places if where.admits(place)] if where else places
    there = [place for place in fitting if os.path.isfile(place.path)]
    place = (there or fitting)[0]
    moment = datetime.fromtimestamp(place.mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
    # Half precision leaves a vector a ten-thousandth longer than 1.
    return Hit(0, place.path, min(score, 1.0), None, not there, place.size, moment, photo)


def inside(path: Path, folder: Path | None) -> bool:
    """Tell whether a file is a folder's, or anywhere where none is named."""
    return folder is None or path == folder or folder in path.parents


def ranked(hits: list[Hit]) -> list[Hit]:
    """The hits with their ranks, from 1."""
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1)]
