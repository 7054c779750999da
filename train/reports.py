"""Reports of evaluations: all by which a figure can be traced, written whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from blip2.display import to_json
from blip2.errors import UserError

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pycocoevalcap")
_ABSOLUTE = re.compile(r"(?:(?<=[,=])|^)/(?:[^/,]+/)+([^/,]+/[^/,]+)")


def provenance(command: Sequence[str]) -> dict:
    """Say when, with what and on what an evaluation ran.

    Parameters
    ----------
    command : sequence of str
        The arguments as given.

    Returns
    -------
    dict
        "command", "date" (UTC, ISO 8601), "versions" and "machine".
    """
    now = datetime.datetime.now(datetime.UTC)
    versions = {"python": platform.python_version(), "code": code_version()}
    versions |= {package: _package_version(package) for package in PACKAGES}
    return {
        "command": " ".join(shorten(part) for part in command),
        "date": now.isoformat(timespec="seconds"),
        "versions": versions,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
        },
    }


def code_version() -> str | None:
    """Commit of this code, with "+changes" if files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ":/")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def describe_shards(paths: Sequence[str]) -> list[dict]:
    """Name, size in bytes and SHA-256 of each shard."""
    shards = []
    for path in map(Path, paths):
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        size = path.stat().st_size
        shards.append({"name": shorten(str(path)), "bytes": size, "sha256": digest.hexdigest()})
    return shards


def shorten(text: str) -> str:
    """Cut absolute paths to their last two parts; reports travel, a machine's folders do not."""
    return _ABSOLUTE.sub(r"\1", text)


def check_output(path: Path) -> None:
    """Make sure a report can be written, before the work that it reports begins.

    Raises
    ------
    UserError
        If `path` is a folder or its folder cannot be made or written.
    """
    if path.is_dir():
        raise UserError(f"The output {path} is a folder; name a file, such as {path}/report.json.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot write to {path.parent} ({error.strerror}); choose another."
        ) from error


def write_report(path: Path, report: dict) -> None:
    """Write a report as JSON, so that a reader sees the old file or the whole new one."""
    text = to_json(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return run.stdout.strip()


def _package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
