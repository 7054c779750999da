"""Run as a program: opens an index again and again, one of its files damaged each time.

Usage: mutate_files.py INDEX TIMES. The memory of the process is limited to what it has at the start
and 256 MB. Every opening must end in the sentence of an `IndexFileError` or in the true answers;
prints how often each file was refused and how often it was harmless, as JSON.
"""

import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path

import torch

from index import IndexFileError, PhotoIndex
from tests.index.fake_retriever import FakeRetriever

torch.set_num_threads(1)
ROOM = 256 << 20  # bytes
RETRIEVER = FakeRetriever()


def answers(folder: Path) -> list:
    """All that a user may see of an index."""
    index = PhotoIndex.open(folder, RETRIEVER)
    hits = [index.search(colour, k=20) for colour in ("red", "blue", "white")]
    hits.append(index.similar(hits[0][0].path, k=5))
    # Size and date are shown, too, though two hits are equal without them.
    return [[vars(hit) for hit in own] for own in hits] + [len(index)]


def mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Damage as disks, copies and people do it."""
    changed = bytearray(data)
    place = draw.randrange(len(data))
    length = min(draw.choice([1, 4, 16, 64, 512]), len(data) - place)
    how = draw.choice(
        ["bit", "bit", "bit", "bits", "byte", "zeros", "noise", "cut", "longer", "less", "twice",
         "other", "empty", "number"]
    )  # fmt: skip
    match how:
        case "bit":
            changed[place] ^= 1 << draw.randrange(8)
        case "bits":
            for _ in range(draw.randint(2, 64)):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "byte":
            changed[place] = draw.randrange(256)
        case "zeros":
            changed[place : place + length] = bytes(length)
        case "noise":
            changed[place : place + length] = draw.randbytes(length)
        case "cut":
            del changed[place:]
        case "longer":
            changed += draw.randbytes(draw.randint(1, 4096))
        case "less":
            del changed[place : place + length]
        case "twice":
            changed[place:place] = changed[place : place + length]
        case "other":
            changed = bytearray(draw.choice(others))
        case "empty":
            changed = bytearray()
        case "number":  # what a reader may take for a length
            changed[place : place + 4] = draw.choice([b"\xff" * 4, b"\x7f" + b"\xff" * 3])
    return bytes(changed)


def main() -> None:
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    truth = answers(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    files = sorted(path for path in folder.iterdir() if path.name != "write.lock")
    contents = {path: path.read_bytes() for path in files}
    journal = folder / "library.sqlite-journal"
    seen: Counter[str] = Counter()
    for number in range(times):
        draw = random.Random(number)
        path = draw.choice([*files, journal])
        data = contents.get(path, contents[folder / "library.sqlite"])
        path.write_bytes(mutated(data, list(contents.values()), draw))
        name = path.name.partition("-")[0] if path != journal else "journal"
        try:
            found = answers(folder)
        except IndexFileError as error:
            sentence = str(error)
            assert "\n" not in sentence and str(folder) in sentence, f"{number}: {sentence}"
            seen[f"{name} refused"] += 1
        else:
            assert found == truth, f"{number}: another answer from a damaged {path.name}"
            seen[f"{name} harmless"] += 1
        journal.unlink(missing_ok=True)
        for file, own in contents.items():  # SQLite may have rolled its file back
            if not file.exists() or file.read_bytes() != own:
                file.write_bytes(own)
    assert answers(folder) == truth
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
