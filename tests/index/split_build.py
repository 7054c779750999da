"""Run by `torchrun`: `python -m index` with a retriever that sees colours.

With ``DIES_AT`` in the environment the second process gets SIGKILL before it embeds so many photos.
Each process writes how many photos it embedded to ``COUNTS``.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from index import grow
from index.__main__ import main
from tests.index.fake_retriever import FakeRetriever

grow.COMMITTED_AT_ONCE = 4


class Mortal(FakeRetriever):
    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        dies_at = int(os.environ.get("DIES_AT", 1 << 30))
        if os.environ["RANK"] == "1" and self.embedded + len(pixels) > dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_pixels(pixels)


if __name__ == "__main__":
    retriever = Mortal()
    status = main(load_retriever=lambda name: retriever)
    counts = Path(os.environ["COUNTS"])
    counts.with_suffix("." + os.environ["RANK"]).write_text(str(retriever.embedded))
    sys.exit(status)
