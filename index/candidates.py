"""Which photos of a large segment are worth an exact look: FAISS over all query vectors.

Vectors are sorted into lists by their nearest centre and kept as product-quantised codes, 4 bits
for every 4 numbers, which FAISS compares in registers (fast scan). What it finds are vectors, some
thousand; in half precision they are put in order, and the photos of the best of them are then
scored by all their vectors (:mod:`index.segment`), so that quantisation costs recall only where a
photo of the answer is not among them.
"""

from pathlib import Path

import faiss
import numpy as np

from index.manifest import IndexFileError, write_aside

CODED = 4  # numbers that share a code of 4 bits
TRAINED_ON = 64  # vectors for each centre
PASSES = 10  # of k-means
FINDERS = 32, 80, 40  # HNSW over the centres: links, vectors looked at when built, when asked
ADDED_AT_ONCE = 8192  # photos


class Candidates:
    """A FAISS index over the vectors of a segment's photos.

    Parameters
    ----------
    index : faiss.Index
        Vector ``row * Q + q`` is the q-th query of a row.
    queries : int
        Vectors of a photo.
    """

    def __init__(self, index: faiss.Index, queries: int) -> None:
        self.index, self.queries = index, queries

    @property
    def kind(self) -> str:
        """What it is, for `info`."""
        return f"IVF{self.index.nlist} with PQ of {self.index.code_size} bytes"

    @classmethod
    def build(cls, embeddings: np.ndarray) -> "Candidates":
        """Make one.

        Parameters
        ----------
        embeddings : np.ndarray
            ``[n, Q, d]`` float16, may be mapped from a file: it is read in parts.
        """
        photos, queries, dim = embeddings.shape
        total = photos * queries
        trained = int(np.log2(total / TRAINED_ON))
        lists = 1 << max(4, min(round(np.log2(2 * np.sqrt(total))), trained))
        draw = np.random.default_rng(0)
        wanted = min(photos, -(-lists * TRAINED_ON // queries))
        some = np.sort(draw.permutation(photos)[:wanted])
        sample = np.asarray(embeddings[some], dtype=np.float32).reshape(-1, dim)
        coarse = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFPQFastScan(
            coarse, dim, lists, max(1, dim // CODED), 4, faiss.METRIC_INNER_PRODUCT
        )
        index.own_fields = True
        coarse.this.disown()
        index.cp.niter, index.cp.seed = PASSES, 7
        index.train(sample)
        # Thousands of centres are compared for millions of vectors: a graph finds nearly always the
        # nearest, a tenth of the time; a search has few vectors and compares them all.
        finder = faiss.IndexHNSWFlat(dim, FINDERS[0], faiss.METRIC_INNER_PRODUCT)
        finder.hnsw.efConstruction, finder.hnsw.efSearch = FINDERS[1:]
        finder.add(coarse.reconstruct_n(0, lists))
        index.quantizer = finder
        for start in range(0, photos, ADDED_AT_ONCE):
            part = np.asarray(embeddings[start : start + ADDED_AT_ONCE], dtype=np.float32)
            index.add(np.ascontiguousarray(part.reshape(-1, dim)))
        index.quantizer = coarse
        return cls(index, queries)

    def vectors(self, query: np.ndarray, count: int, probes: int) -> np.ndarray:
        """Vectors that are nearest by their codes.

        Parameters
        ----------
        query : np.ndarray
            ``[A, d]`` float32.
        count : int
            Vectors to take for each.
        probes : int
            Lists to look into.

        Returns
        -------
        np.ndarray
            ``[A, count]`` int64; -1 at the end where there are fewer.
        """
        options = faiss.SearchParametersIVF(nprobe=min(probes, self.index.nlist))
        return self.index.search(query, min(count, self.index.ntotal), params=options)[1]

    def save(self, path: Path) -> None:
        """Write it to a file, aside and synced."""
        write_aside(
            path, lambda file: faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))
        )

    @classmethod
    def load(cls, path: Path, queries: int, dim: int, photos: int) -> "Candidates":
        """Read a file whose digest was compared.

        Raises
        ------
        IndexFileError
            It holds something else than the segment needs.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise IndexFileError(
                f"The file {path} of the index can't be read by FAISS; build the index anew in "
                "another folder."
            ) from error
        if (index.d, index.ntotal) != (dim, photos * queries):
            raise IndexFileError(
                f"The file {path} is of another index; restore the index from a copy."
            )
        return cls(index, queries)
