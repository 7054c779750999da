"""What came of adding photos to an index or of bringing it up to date."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class AddReport:
    """What came of adding photos.

    Parameters
    ----------
    added, known : int
        How many are new, and how many files hold known ones.
    refused : list of (Path, str)
        Files and folders that could not be used, each with the reason.
    gone : int
        Files taken out: they were deleted, can no longer be read as photos, or are left out now.
    renewed : int
        Known photos, counted among these, that were embedded anew: photos are read differently now.
    away : int
        Files that are kept although they are not there: their drive or folder is not there either.
    doubted : dict
        By root, how many photos are kept although they seem deleted, since they are most of it.
    notes : list of (Path, str)
        Damaged files that could be used all the same, each with what is wrong.
    unusable : list of Path
        Those of the refused that were read and hold no photo that can be used.
    not_read : dict
        Pictures and videos of kinds that are not read here: numbers by suffix.
    """

    added: int
    known: int
    refused: list[tuple[Path, str]]
    gone: int = 0
    renewed: int = 0
    away: int = 0
    doubted: dict[Path, int] = field(default_factory=dict)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    unusable: list[Path] = field(default_factory=list)
    not_read: dict[str, int] = field(default_factory=dict)

    def remarks(self, forget: str = "--forget") -> list[str]:
        """Return sentences on what is kept although it is not there, and on what is not read.

        Parameters
        ----------
        forget : str
            What forgets photos that are kept although they seem deleted.
        """
        said = []
        if self.away:
            files = "file is" if self.away == 1 else "files are"
            said.append(
                f"{self.away:,} {files} on a drive or in a folder that is away, and kept until it "
                "is back."
            )
        for root, photos in self.doubted.items():
            said.append(
                f"{photos:,} photos of {root} are no longer there, which is most of it; they are "
                f"kept, and {forget} forgets them if they were deleted on purpose."
            )
        if self.not_read:
            verb = "was" if sum(self.not_read.values()) == 1 else "were"
            said.append(f"{count_suffixes(self.not_read)} {verb} left out: not read here.")
        return said


def count_suffixes(numbers: dict[str, int]) -> str:
    """Return numbers of files by suffix in words, such as "2 .cr2, 14 .mp4", the fewest first."""
    ordered = sorted(numbers.items(), key=lambda item: (item[1], item[0]))
    return ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in ordered)
