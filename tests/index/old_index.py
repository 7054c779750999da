"""Turns an index into one of the format before, 3, which knows no versions of reading."""

import json
import sqlite3
import zlib
from pathlib import Path

from index import manifest


def make_old(folder: Path) -> None:
    """Write an index's library and manifest as format 3 had them."""
    connection = sqlite3.connect(folder / "library.sqlite")
    connection.create_function("checksum", -1, lambda *row: zlib.crc32(repr(row).encode()))
    connection.executescript(
        "ALTER TABLE photos DROP COLUMN reading; PRAGMA user_version = 0;"
        "UPDATE photos SET checked = checksum(id, sha256, width, height, added, removed);"
    )
    connection.close()
    fields = json.loads((folder / "manifest.json").read_bytes())
    for name in ("check", "roots", "mounts", "exclude", "build_began"):
        del fields[name]
    fields["format"] = 3
    text = json.dumps({**fields, "check": manifest._check(fields)}, indent=2) + "\n"
    (folder / "manifest.json").write_text(text)
