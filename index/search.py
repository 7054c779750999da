"""`PhotoIndex`: photos by words, ranked by the best of each photo's query embeddings."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip2.errors import UserError
from index.deletions import mark_away
from index.folder import IndexFolder, State
from index.grow import (
    UpdateOptions,
    add_photos,
    forget_deleted,
    list_for,
    note_folders,
    update_photos,
)
from index.hits import Hit, Results, make_hit, ranked
from index.listing import Listing
from index.lookup import check_whole, describe, kept_photo
from index.manifest import NAME as MANIFEST
from index.manifest import IndexFileError
from index.places import Where
from index.report import AddReport
from index.rerank import rerank_hits

if TYPE_CHECKING:
    from blip2 import Blip2Retriever


class PhotoIndex:
    """An index of photos, in a folder; made by `create` or `open`.

    Searches may run in several threads and processes while one writes: each sees the state before
    or after a change, nothing between. Changes by other processes are noticed at the next call.
    """

    def __init__(self, folder: IndexFolder, retriever: "Blip2Retriever | None") -> None:
        self._folder = folder
        self._retriever = retriever

    @classmethod
    def create(
        cls,
        folder: Path,
        retriever: "Blip2Retriever",
        search: str = "auto",
        address: str | None = None,
    ) -> "PhotoIndex":
        """Make an index without photos.

        Parameters
        ----------
        folder : Path
            Empty or not there yet.
        retriever : Blip2Retriever
            The model that makes the embeddings.
        search : str
            ``"auto"``: photos are compared one and all while they are few, candidates of them once
            they are many; ``"exhaustive"`` or ``"candidates"`` whatever their number.
        address : str, optional
            Of a Qdrant server that is to hold the embeddings; files in the folder unless given.

        Returns
        -------
        PhotoIndex

        Raises
        ------
        IndexFileError
            If the folder is taken or cannot be written, or the server does not answer.
        """
        IndexFolder.create(
            Path(folder),
            retriever=retriever.name,
            fingerprint=retriever.fingerprint,
            queries=retriever.num_queries,
            dim=retriever.dim,
            search=search,
            address=address,
        )
        return cls.open(folder, retriever)

    @classmethod
    def open(cls, folder: Path, retriever: "Blip2Retriever | None") -> "PhotoIndex":
        """Open an index.

        Parameters
        ----------
        folder : Path
            Made by `create`.
        retriever : Blip2Retriever or None
            The model that made it; None for `remove`, `info` and `verify`, which need none.

        Returns
        -------
        PhotoIndex

        Raises
        ------
        IndexFileError
            If the index is absent, damaged, or made by another model.
        """
        if retriever is None:
            return cls(IndexFolder(Path(folder)), None)
        return cls(IndexFolder(Path(folder), retriever.fingerprint, retriever.name), retriever)

    @property
    def folder(self) -> IndexFolder:
        """Its files, for `index.lookup`."""
        return self._folder

    @property
    def retriever(self) -> "Blip2Retriever":
        """The model that makes its embeddings."""
        if self._retriever is None:
            raise ValueError("the index was opened without a retriever")
        return self._retriever

    @staticmethod
    def exists(folder: Path) -> bool:
        """Tell whether there is an index in a folder, in whatever condition."""
        return (Path(folder) / MANIFEST).exists()

    def __len__(self) -> int:
        return len(self._folder.state().store)

    def add(
        self,
        paths: Iterable[Path],
        progress: Callable[[int, int], None] | None = None,
    ) -> AddReport:
        """Add photos.

        A photo that is known by its content is not embedded again; its file is noted as one more
        place of it. Files are committed some thousand at a time, and every 30 seconds: after a kill
        the same call goes on from the last commit.

        Parameters
        ----------
        paths : iterable of Path
            Photos, and folders to walk (see `index.listing.list_photos`).
        progress : callable, optional
            Called as (files done, files in all).

        Returns
        -------
        AddReport

        Raises
        ------
        IndexFileError
            If the index cannot be written; it is then as it was after the last commit.
        """
        listing = list_for(self._folder, paths)
        note_folders(self._folder, listing)
        report = add_photos(self._folder, self.retriever, listing.files, progress)
        refused = listing.unreadable + report.refused
        return replace(report, refused=refused, not_read=listing.not_read)

    def update(
        self,
        paths: Iterable[Path] | Listing,
        progress: Callable[[int, int], None] | None = None,
        options: UpdateOptions | None = None,
    ) -> AddReport:
        """Bring the index up to date with folders: as `add`, and deleted files are taken out.

        Deleted are files that are missing from a folder that can be listed. What is on a drive
        that is away is kept, and so is what would be most of a folder (see `index.deletions`).
        Photos that are read differently now than when they were embedded are embedded anew.

        Parameters
        ----------
        paths : iterable of Path, or Listing
            Photos and folders, or what `index.listing.list_photos` found of them.
        progress : callable, optional
            Called as (files done, files in all).
        options : UpdateOptions, optional
            What else is done.

        Returns
        -------
        AddReport

        Raises
        ------
        IndexFileError
            If the index cannot be written; it is then as it was after the last commit.
        """
        return update_photos(self._folder, self._retriever, paths, progress, options)

    def forget_deleted(self, paths: Iterable[Path]) -> AddReport:
        """Take out deleted files of folders without adding any, however many they are.

        Parameters
        ----------
        paths : iterable of Path
            Folders.

        Returns
        -------
        AddReport
            With the number of those that are ``gone``.
        """
        listing = list_for(self._folder, paths)
        return forget_deleted(self._folder, listing, AddReport(0, 0, []), force=True)

    def start_over(self, retriever: "Blip2Retriever") -> list[Path]:
        """Take all photos out, for a model of other weights to embed them anew.

        Parameters
        ----------
        retriever : Blip2Retriever
            That model.

        Returns
        -------
        list of Path
            The files that were known and exist.
        """
        with self._folder.reading() as library:
            files = [path for path, _ in library.files() if os.path.isfile(path)]
        self._folder.start_over(
            retriever.name, retriever.fingerprint, retriever.num_queries, retriever.dim
        )
        self._retriever = retriever
        return files

    def remove(self, paths: Iterable[Path]) -> int:
        """Take files out of the index; a photo goes with the last file that holds it.

        Parameters
        ----------
        paths : iterable of Path
            Files, and folders for all files in them, whether or not they still exist.

        Returns
        -------
        int
            Number of files taken out.
        """
        named = [Path(os.path.abspath(path)) for path in paths]
        with self._folder.reading() as library:
            others = [path for path in named if not library.places_under(path)]
            found = [file for path in others for file in library.files_under(path)]
        return self._folder.commit(None, [*named, *found]).forgotten

    def search(
        self, text: str, k: int = 12, rerank: int = 0, where: Where | None = None
    ) -> Results[Hit]:
        """Find the photos that a text describes best.

        In a small library the ranking by similarity is exact: that of comparing the text with every
        query embedding of every photo. In a large one the photos that FAISS names as candidates are
        compared so. Ties are broken by age in the index, oldest first.

        Parameters
        ----------
        text : str
            What to look for.
        k : int
            Photos wanted.
        rerank : int
            So many of the best photos are ranked anew by the joint score of similarity and ITM,
            which looks at photo and text together; 0 for none.
        where : Where, optional
            Only among these files.

        Returns
        -------
        Results of Hit
            Best first, ``k`` of them unless there are fewer; its ``notes`` say which words of the
            text were not read. `index.verdict.judge_hits` tells whether any of them fits.

        Raises
        ------
        UserError
            If the text is empty or too long, or the model knows no word of it.
        IndexFileError
            If the index was damaged or deleted since it was opened.
        """
        from blip2.processing import clean_text

        text = clean_text(text, "search text")
        if k < 1 or rerank < 0:
            raise UserError(f"Ask for at least 1 photo and 0 to re-rank, not {k} and {rerank}.")
        notes = self.retriever.read_text(text).notes
        query = self.retriever.embed_texts([text])[0].numpy()  # [d]
        hits = self._hits(query, max(k, rerank), where)
        best = (rerank_hits(self.retriever, hits[:rerank], text) + hits[rerank:])[:k]
        return Results(ranked(best), notes)

    def similar(self, photo: Any, k: int = 12, where: Where | None = None) -> list[Hit]:
        """Find the photos that are most like one.

        Two photos are as similar as, on average over the embeddings of the first, the best of the
        embeddings of the second is: the similarity of a text, for each of them.

        Parameters
        ----------
        photo
            Everything that `blip2.processing.open_photo` takes, in the index or not; a file of the
            index is not read again, and not among the hits.
        k : int
            Photos wanted.
        where : Where, optional
            Only among these files.

        Returns
        -------
        list of Hit
            Best first.

        Raises
        ------
        UserError
            If the photo cannot be used.
        """
        if k < 1:
            raise UserError(f"Ask for at least 1 photo, not {k}.")
        kept = kept_photo(self._folder, photo) if isinstance(photo, (str, Path)) else None
        if kept is None:
            query = self.retriever.embed_images([photo])[0].numpy()  # [Q, d]
            return self.nearest(query, k, where)
        known, query = kept
        hits = self.nearest(query, k + 1, where)
        return ranked([hit for hit in hits if hit.photo != known][:k])

    def nearest(self, query: np.ndarray, k: int = 12, where: Where | None = None) -> list[Hit]:
        """Find the photos nearest to embeddings, for those who search several indexes at once.

        Parameters
        ----------
        query : np.ndarray
            ``[d]`` float32 of a text, as for `search`, or ``[Q, d]`` of a photo, as for `similar`.
        k : int
            Photos wanted.
        where : Where, optional
            Only among these files.

        Returns
        -------
        list of Hit
            Best first.
        """
        return ranked(self._hits(query, k, where))

    def embeddings_of(self, hits: Sequence[Hit]) -> np.ndarray:
        """Return the embeddings of photos that were found.

        Parameters
        ----------
        hits : sequence of Hit
            Of this index.

        Returns
        -------
        np.ndarray
            ``[len(hits), Q, d]`` float32; zeros for a photo that was taken out since.
        """
        state: State = self._folder.state()
        shape = len(hits), state.manifest.queries, state.manifest.dim
        found = np.zeros(shape, dtype=np.float32)
        for row, hit in enumerate(hits):
            with suppress(KeyError):
                found[row] = state.store.embeddings_of(hit.photo)
        return found

    def info(self) -> dict:
        """Describe the index.

        Returns
        -------
        dict
            Ready for JSON: where it is, which model made it, how much it holds and how it searches.
        """
        return describe(self._folder)

    def verify(self) -> list[Path]:
        """Read the whole index from the disk and compare its parts.

        Returns
        -------
        list of Path
            Indexed files that no longer exist, which is no damage.

        Raises
        ------
        IndexFileError
            If a file is damaged, a vector has no photo or a photo has no vector.
        """
        return check_whole(self._folder)

    def _hits(self, query: np.ndarray, count: int, where: Where | None) -> list[Hit]:
        """The best photos, not yet ranked, all of one state."""
        while True:
            state: State = self._folder.state()
            with self._folder.library.reading(state.manifest.generation) as library:
                among = None
                if where:
                    among = np.array(library.photos_where(where), dtype=np.int64)
                found = state.store.nearest(query, count, among)
                places = [library.places_of(photo) for photo, _ in found]
            if all(places):
                hits = [
                    make_hit(*pair, own, where) for pair, own in zip(found, places, strict=True)
                ]
                return [mark_away(hit, state.manifest) for hit in hits]
            # Later commits have cleared away rows of this state: search the new one.
            if self._folder.state() is state:
                raise IndexFileError(
                    f"The index {self._folder.path} is damaged: photos without a file; "
                    "restore it from a copy or build it anew in another folder."
                )
