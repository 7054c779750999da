"""The photos that the page searches: those of its library and, beside them, those of a visit."""

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from blip2.errors import UserError
from blip2.processing import clean_text
from demo.filters import named_folders, read_where
from demo.found import Found, Shown, show_hits
from demo.sources import library_folder, sample_photos
from demo.thumbnails import Thumbnails
from demo.together import Together
from demo.visits import Refused, Visit, add_copies

if TYPE_CHECKING:
    from index import AddReport, Hit, PhotoIndex, Where

__all__ = ["Found", "Library", "Shown", "Visit", "library_folder", "sample_photos"]

RERANKED = 32  # candidates that the slower matching looks at again
FIRST_SHOWN = 12
MAX_UPLOADS = 10_000  # photos that visitors may add to the library for all


class Library:
    """An index of photos with what the page needs around it.

    Parameters
    ----------
    index : PhotoIndex
        Open.
    folder : Path
        The index folder; uploads are kept in its folder ``uploads``.
    thumbnails : Path
        Folder for thumbnails.
    first : iterable of Path
        Photos to show before any search.
    photos : Path, optional
        The folder that was indexed; its folders are offered as a filter.
    scratch : Path, optional
        Folder for the private photos of visits, which must not be served; a temporary one that
        goes with the process unless given.

    Attributes
    ----------
    report : AddReport or None
        What came of bringing it up to date when it was opened.
    """

    def __init__(
        self,
        index: "PhotoIndex",
        folder: Path,
        thumbnails: Path,
        first: Iterable[Path] = (),
        photos: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._index = index
        self._uploads = folder.absolute() / "uploads"
        self._thumbnails = Thumbnails(thumbnails)
        self._first = list(first)
        self._photos = None if photos is None else Path(os.path.abspath(photos))
        self._folders: tuple[int, dict[str, Path]] = (-1, {})
        self._temporary = None
        if scratch is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="blip2-visits-")
            scratch = Path(self._temporary.name)
        self._scratch = scratch
        self.report: AddReport | None = None

    def __len__(self) -> int:
        return len(self._index)

    def size(self, visit: Visit | None = None) -> int:
        """Return the number of photos that a visitor can find."""
        return len(self) + (0 if visit is None else len(visit))

    def visit(self) -> Visit:
        """Begin a visit; `Visit.close` it when the visitor leaves."""
        return Visit(self._scratch, self._index.retriever, self._thumbnails.forget)

    def first(self, visit: Visit | None = None) -> list[tuple[Path, str]]:
        """Return thumbnails and names of photos to show before any search.

        Parameters
        ----------
        visit : Visit, optional
            Its photos come first, then other uploads, each the newest first.

        Returns
        -------
        list of (Path, str)
            At most `FIRST_SHOWN`, and no fewer unless the library has fewer.
        """
        from index.lookup import newest_files

        newest = newest_files(self._index.folder, 2 * FIRST_SHOWN)
        uploads = [path for path in newest if self._uploads in path.parents]
        own = [] if visit is None else visit.newest(FIRST_SHOWN)
        paths = list(dict.fromkeys([*own, *uploads, *self._first, *newest]))
        made = self._thumbnails.make_all(paths[: 2 * FIRST_SHOWN])
        if self._forget_closed(visit):
            return self.first()
        # Those refused by the index have no thumbnail either; it has said so.
        shown = [(small, path.name) for small, path in zip(made, paths, strict=False) if small]
        return shown[:FIRST_SHOWN]

    def search(
        self,
        text: str,
        count: int,
        rerank: bool,
        where: "Where | None" = None,
        visit: Visit | None = None,
        fold: bool = True,
    ) -> Found:
        """Find photos by words.

        Parameters
        ----------
        text : str
            What to find.
        count : int
            Photos at most.
        rerank : bool
            Look at the best candidates again with the slower matching.
        where : Where, optional
            Only among these files; see `where`.
        visit : Visit, optional
            Look among its photos, too.
        fold : bool
            Show of photos that are nearly the same the first alone.

        Returns
        -------
        Found

        Raises
        ------
        UserError
            If the text is empty or too long, or the model knows no word of it.
        """
        from index.rerank import rerank_hits
        from index.verdict import judge_hits

        retriever = self._index.retriever
        text = clean_text(text, "search text")
        notes = retriever.read_text(text).notes
        query = retriever.embed_texts([text])[0].numpy()  # [d]
        together = Together(self._index, visit)

        def more(asked: int) -> list["Hit"]:
            return together.nearest(query, asked, where)

        hits = more(max(2 * count, RERANKED))
        head = rerank_hits(retriever, hits[: max(count, RERANKED)], text) if rerank else []
        found = self._show(hits, head, count, more, visit, fold)
        found.verdict, found.notes = judge_hits(retriever, head or hits, text), notes
        return found

    def similar(
        self,
        photo: Image.Image | Path | str,
        count: int,
        where: "Where | None" = None,
        visit: Visit | None = None,
        fold: bool = True,
    ) -> Found:
        """Find photos that are like one.

        Parameters
        ----------
        photo : PIL.Image.Image, Path or str
            A photo; or a thumbnail of this library, or its name: the photo that it shows is not
            read again, and not among what is found.
        count : int
            Photos at most.
        where, visit, fold
            As for `search`.

        Returns
        -------
        Found

        Raises
        ------
        UserError
            If it is a thumbnail of no photo that this visitor can find.
        """
        together, known = Together(self._index, visit), None
        if isinstance(photo, Image.Image):
            query = self._index.retriever.embed_images([photo])[0].numpy()  # [Q, d]
        else:
            path = self.original(Path(photo))
            kept = None if path is None else together.kept(path)
            if kept is not None:
                known, query = kept
            elif path is not None and path.is_file() and self._scratch not in path.parents:
                query = self._index.retriever.embed_images([path])[0].numpy()  # it was edited
            else:
                raise UserError("This photo is no longer in the library; search again.")

        def more(asked: int) -> list["Hit"]:
            return together.nearest(query, asked, where, known)

        return self._show(more(max(2 * count, RERANKED)), [], count, more, visit, fold)

    def add(
        self,
        files: Iterable[tuple[Path, str]],
        progress: Callable[[int, int], None] | None = None,
        visit: Visit | None = None,
    ) -> tuple["AddReport", Refused]:
        """Add received photos, of which clean copies are kept.

        Parameters
        ----------
        files : iterable of (Path, str)
            Where each lies, and its name.
        progress : callable, optional
            Called as (photos done, photos in all).
        visit : Visit, optional
            Add them to it, where nobody else finds them; otherwise to the library for all.

        Returns
        -------
        AddReport, list of (str, str)
            What the index did; names of refused files, each with the reason.

        Raises
        ------
        UserError
            If these are more photos than there may be, or the visit has ended.
        """
        from index.lookup import kept_photo, known_contents

        files = list(files)
        index = self._index.folder

        def known(digest: str) -> bool:
            return bool(known_contents(index, [digest]))

        def known_to_all(digest: str) -> bool:
            copies = (self._uploads / digest).glob("*.jpg")
            return known(digest) or any(kept_photo(index, copy) for copy in copies)

        if visit is not None:
            return visit.add(files, progress, known_to_all)
        there = len(os.listdir(self._uploads)) if self._uploads.is_dir() else 0
        if there + len(files) > MAX_UPLOADS:
            raise UserError(
                f"The library takes at most {MAX_UPLOADS:,} photos of visitors and has "
                f"{there:,} already; ask whoever runs it to remove some."
            )
        return add_copies(self._index, files, self._uploads, progress, known)

    @property
    def doubted(self) -> int:
        """How many photos seem deleted and are kept, since they are most of the folder."""
        return 0 if self.report is None else sum(self.report.doubted.values())

    def forget_deleted(self) -> int:
        """Take out the photos that are no longer in their folder, however many; see `index`.

        Returns
        -------
        int
            Files taken out.
        """
        if self._photos is None or self.report is None:
            return 0
        self.report = self._index.forget_deleted([self._photos])
        return self.report.gone

    def thumbnail(self, path: Path) -> Path:
        """Return a small copy of a photo; see `demo.thumbnails.Thumbnails.make`."""
        return self._thumbnails.make(path)

    def thumbnail_named(self, name: str) -> Path | None:
        """Return the thumbnail of this name, None if no photo of this library has it."""
        return self._thumbnails.named(name)

    def original(self, thumbnail: Path) -> Path | None:
        """Return the photo that a thumbnail shows, None if it is none of this library."""
        return self._thumbnails.original(thumbnail)

    def folders(self) -> list[str]:
        """Return the displayed names of the folders directly under the indexed one with photos."""
        return list(self._named_folders())

    def where(
        self, name: str = "", since: str = "", until: str = "", folder: str = ""
    ) -> "Where | None":
        """Read the controls that narrow a search; see `demo.filters.read_where`."""
        return read_where(name, since, until, folder, self._named_folders())

    def _named_folders(self) -> dict[str, Path]:
        from index.lookup import filled_folders

        size = len(self)
        if self._photos is not None and self._folders[0] != size:
            self._folders = (size, named_folders(filled_folders(self._index.folder, self._photos)))
        return self._folders[1]

    def _show(
        self,
        hits: list["Hit"],
        head: list["Hit"],
        count: int,
        more: Callable[[int], list["Hit"]],
        visit: Visit | None,
        fold: bool,
    ) -> Found:
        embeddings_of = Together(self._index, visit).embeddings_of if fold else None
        found = show_hits(hits, head, count, more, embeddings_of, self._thumbnails)
        if self._forget_closed(visit):
            names = {hit.path.name for hit in hits if visit.holds(hit.path)}
            found.shown = [one for one in found.shown if not visit.holds(one.hit.path)]
            found.lost = [name for name in found.lost if name not in names]
        return found

    def _forget_closed(self, visit: Visit | None) -> bool:
        """Delete thumbnails made of a visit that ended meanwhile."""
        if visit is None or not visit.closed:
            return False
        self._thumbnails.forget(visit.folder)
        return True
