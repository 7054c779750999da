"""Reading WebDataset shards: tars of photos, each with a ``.json`` of the same name beside it.

Plain ``tarfile`` reads them. It looks at the whole table of files before it joins them, so a
photo and its text belong together wherever they stand in the tar (a stream that joins neighbours
only splits such a sample without a word), and a tar that was cut off is noticed, which
``tarfile`` by itself does not do when the cut falls on a header.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from blip2.display import displayable, one_line
from blip2.errors import UserError
from blip2.processing import SUFFIXES

IMAGE_KINDS = tuple(sorted(suffix[1:] for suffix in SUFFIXES))
BLOCK = 512  # a tar is a row of blocks of this many bytes and ends with blocks of zeros


class ShardError(UserError):
    """A shard, or a sample in it, that cannot be used."""


@dataclass(frozen=True)
class Place:
    """Where the bytes of a photo's file lie: a file, or a part of one."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Read them.

        Raises
        ------
        ShardError
            They are no longer there.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                found = file.read(self.size)
        except OSError as error:
            raise ShardError(
                f"Cannot read {self.path} ({error.strerror}); bring it back."
            ) from error
        if len(found) != self.size:
            raise ShardError(f"{self.path} was cut off since training began; bring it back.")
        return found


@dataclass
class Sample:
    """One photo with its text.

    ``image`` holds the bytes of the file, undecoded; None where only the text was asked for, and
    ``place`` says where they lie. Each entry of ``qa`` has at least "question" (str) and "answers"
    (list of str). ``domain`` names a part of the data set that is scored by itself, too (NoCaps).
    """

    image_id: str
    image: bytes | None
    captions: list[str] = field(default_factory=list)
    qa: list[dict] = field(default_factory=list)
    place: Place | None = None
    domain: str = ""


@dataclass
class ShardReport:
    """What a pass over shards met: samples handed out, and those left out with the reason."""

    shards: list[str] = field(default_factory=list)
    samples: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)

    def leave_out(self, name: str, why: str) -> None:
        """Count a sample that was handed out as broken after all."""
        self.samples -= 1
        self.broken.append((name, why))

    def describe(self) -> str:
        """One line for a log: how many samples were read and what is wrong with the others."""
        line = f"{self.samples} samples from {len(self.shards)} sources"
        if self.broken:
            where, why = map(one_line, self.broken[0])
            line += f", {len(self.broken)} left out as broken; the first is {where}: {why}"
        return line


def find_shards(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the tars that a description of a data set names.

    Parameters
    ----------
    source
        A path, a glob (``train-*.tar``), a brace pattern (``train-{000000..000005}.tar``), a
        folder of tars, several of these separated by commas, or an iterable of any of them.

    Returns
    -------
    list of Path
        In the order given; those of one glob or folder sorted by name.

    Raises
    ------
    ShardError
        Where a part of ``source`` names no existing file, or a file is named twice.
    """
    if isinstance(source, str):
        parts = [part.strip() for part in split_outside_braces(source) if part.strip()]
    elif isinstance(source, Path):
        parts = [str(source)]
    else:
        return _without_repeats([path for part in source for path in find_shards(part)])
    if not parts:
        raise ShardError("No shards were named; give a .tar file, a pattern or a folder of tars.")
    return _without_repeats([path for part in parts for path in _find_one(part)])


def iter_samples(
    source: str | Path | Iterable[str | Path],
    with_image: bool = True,
    report: ShardReport | None = None,
) -> Iterator[Sample]:
    """Read the samples of shards one after the other, in the order of the tars.

    Parameters
    ----------
    source
        Everything that :func:`find_shards` takes.
    with_image
        False leaves the photos' bytes unread (their presence is still checked).
    report
        Counts the samples. A broken sample is noted in it and left out; without a report a
        broken sample ends the pass with an error, so that none is ever lost unseen.

    Raises
    ------
    ShardError
        For a tar that is damaged or cut off, for a broken sample when there is no ``report``,
        and for shards without a single usable sample.
    """
    found = 0
    for path in find_shards(source):
        if report is not None:
            report.shards.append(str(path))
        for key, sample in _read_shard(path, with_image):
            if isinstance(sample, Sample):
                found += 1
                if report is not None:
                    report.samples += 1
                yield sample
            elif report is not None:
                report.broken.append((f"{path}:{key}", sample))
            else:
                raise ShardError(f"Sample {key} of {path} is broken: {sample}; repair it.")
    if not found:
        raise ShardError(
            f"No usable sample is in {source}; each needs a photo and a .json of the same name."
        )


def iter_files(
    source: str | Path | Iterable[str | Path], report: ShardReport
) -> Iterator[tuple[str, dict[str, bytes], Sample]]:
    """Read samples with their files, for writing them to other shards as they are.

    Parameters
    ----------
    source
        Everything that :func:`find_shards` takes.
    report
        Counts the samples; a broken one is noted in it and left out.

    Yields
    ------
    str, dict, Sample
        A sample's name in its shard, its files by suffix, and what its json says.
    """
    for path in find_shards(source):
        report.shards.append(str(path))
        with _opened(path) as tar:
            for key, members in _group(tar, path).items():
                sample = _read_sample(tar, path, key, members, with_image=False)
                if isinstance(sample, str):
                    report.broken.append((f"{path}:{key}", sample))
                    continue
                report.samples += 1
                yield key, {_suffix(m): tar.extractfile(m).read() for m in members}, sample


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"Cannot read {path}: {error}; fetch or make the shard again.") from error


def _read_shard(path: Path, with_image: bool) -> Iterator[tuple[str, Sample | str]]:
    """Yield each sample of one tar with its key, or the reason why it is broken."""
    with _opened(path) as tar:
        for key, members in _group(tar, path).items():
            yield key, _read_sample(tar, path, key, members, with_image)


def _group(tar: tarfile.TarFile, path: Path) -> dict[str, list[tarfile.TarInfo]]:
    """Collect the members of a tar by key, wherever they stand in it."""
    groups: dict[str, list[tarfile.TarInfo]] = {}
    for member in tar.getmembers():
        name = PurePosixPath(member.name)
        if member.isfile() and not name.name.startswith("."):
            key = str(name.with_name(name.name.split(".", 1)[0]))
            groups.setdefault(key, []).append(member)
    # tarfile takes a damaged header for the end; the true end is a block of zeros.
    with path.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(BLOCK)
    if block.count(0) != BLOCK:
        raise tarfile.ReadError(f"it is damaged or cut off after {len(groups)} samples")
    return groups


def _read_sample(
    tar: tarfile.TarFile, path: Path, key: str, members: list[tarfile.TarInfo], with_image: bool
) -> Sample | str:
    """Join a sample's files, or say in a few words what is wrong with it."""
    texts = [m for m in members if _kind(m) == "json"]
    photos = [m for m in members if _kind(m) in IMAGE_KINDS]
    for what, of_kind in (("json file", texts), ("photo", photos)):
        if len(of_kind) != 1:
            return f"it has {len(of_kind) or 'no'} {what}{'s' if len(of_kind) > 1 else ''}"
    try:
        fields = json.loads(tar.extractfile(texts[0]).read().decode("utf-8"))
    except ValueError as error:
        return f"its json does not parse ({error})"
    place = Place(str(path), photos[0].offset_data, photos[0].size)
    return sample_of(fields, place, with_image, key)


def sample_of(fields: object, place: Place, with_image: bool = True, key: str = "") -> Sample | str:
    """A sample from its json and its photo, or the reason in a few words why it is broken."""
    problem = _problem(fields)
    if problem is None and not place.size:
        problem = "its photo is empty"
    if problem:
        return problem
    return Sample(
        image_id=displayable(fields.get("image_id", key)),
        image=place.read() if with_image else None,
        captions=fields.get("captions", []),
        qa=fields.get("qa", []),
        place=place,
        domain=str(fields.get("domain", "")),
    )


def _problem(fields: object) -> str | None:
    """What is wrong with the content of a sample's json, None if nothing is."""
    if not isinstance(fields, dict):
        return "its json is not an object"
    captions, qa = fields.get("captions", []), fields.get("qa", [])
    if not isinstance(captions, list) or not all(_is_text(text) for text in captions):
        return 'its "captions" are not a list of non-empty texts'
    if not isinstance(qa, list) or not all(_is_question(entry) for entry in qa):
        return 'its "qa" is not a list of questions with answers'
    return None if captions or qa else "it has neither captions nor qa"


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    # Half a surrogate pair, as a cut inside an emoji leaves it, is no text for a tokenizer.
    return not any("\ud800" <= sign <= "\udfff" for sign in value)


def _is_question(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("answers"), list):
        return False
    return _is_text(entry.get("question")) and all(_is_text(answer) for answer in entry["answers"])


def _kind(member: tarfile.TarInfo) -> str:
    return _suffix(member).lower()


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).name.partition(".")[2]


def _find_one(part: str) -> list[Path]:
    """The tars that one path, glob, brace pattern or folder names."""
    found: list[Path] = []
    for name in expand_braces(part):
        if "://" in name:
            raise ShardError(f"{name} is no file; set pool: N in the recipe to stream it.")
        path = Path(name).expanduser()
        if path.is_dir():
            matches = sorted(path.glob("*.tar"))
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            raise ShardError(f"No shard is at {name}; give a .tar file, a pattern or a folder.")
        found += matches
    return found


def expand_braces(text: str) -> list[str]:
    """Expand ``{000..005}`` (leading zeros kept) and ``{a,b}``, left to right."""
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        return [text]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        inner = [str(n).zfill(len(span[1])) for n in range(first, last + 1)]
        if not inner:
            raise ShardError(f"The range {match[0]} in {text} is empty; put the lower end first.")
    else:
        inner = match[1].split(",")
    head, tail = text[: match.start()], text[match.end() :]
    return [head + middle + rest for middle in inner for rest in expand_braces(tail)]


def split_outside_braces(text: str) -> list[str]:
    """Split at commas that stand in no braces."""
    return re.split(r",(?![^{}]*\})", text)


def _without_repeats(paths: list[Path]) -> list[Path]:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ShardError(f"The shard {path} is named twice; name each shard once.")
        seen.add(path.resolve())
    return paths
