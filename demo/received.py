"""What is received: how full its folder is, and forms followed on their way into it."""

import os
import time
from pathlib import Path

from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_OLD_PART = 900  # seconds after which a half received file is taken for broken off
_FILE_COST = 4096  # bytes that the smallest file takes on the disk


class ReceivedFiles:
    """How full the folder of received files is.

    Parameters
    ----------
    path : Path
        The folder; it need not exist yet.
    every : float
        Seconds between two looks; ``arrived`` counts bytes in between.
    """

    def __init__(self, path: Path, every: float) -> None:
        self._path = path
        self._every = every
        self._looked = -every
        self._measured = 0
        self.arrived = 0

    @property
    def size(self) -> int:
        """Bytes that it holds by now."""
        return self._measured + self.arrived

    async def look(self) -> None:
        """Measure the folder, unless that was done a moment ago."""
        if time.monotonic() - self._looked >= self._every:
            self._looked = time.monotonic()
            self.arrived = 0
            self._measured = await to_thread.run_sync(_measure, self._path)


def _measure(folder: Path) -> int:
    """Add up the files below a folder; parts of uploads that broke off are deleted on the way."""
    total, folders, long_ago = 0, [str(folder)], time.time() - _OLD_PART
    while folders:
        place = folders.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    total += _FILE_COST
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    state = entry.stat(follow_symlinks=False)
                    total += state.st_size
                    # Gradio writes to tmp... and renames; it forgets the file if the client leaves.
                    part = entry.name.startswith("tmp") and place == str(folder)
                    if part and state.st_mtime < long_ago:
                        os.unlink(entry.path)
        except OSError:  # gone since, as files here may be at any time
            continue
    return total


class UploadForm:
    """Follows a form on its way to Gradio, which keeps parts that are no files in memory."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_begin": self._header,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
        }
        boundary = options.get(b"boundary")
        self._parser = MultipartParser(boundary, callbacks) if boundary else None
        self._text = False

    def has_text(self, chunk: bytes) -> bool:
        """Take the next bytes; whether there has been a part that is no file."""
        try:
            if self._parser:
                self._parser.write(chunk)
        except FormParserError:
            self._parser = None  # Gradio's parser is the same, and stops here too
        return self._text

    def _begin(self) -> None:
        self._disposition = self._name = self._value = b""

    def _header(self) -> None:
        self._name = self._value = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._text = self._text or b"filename" not in options
