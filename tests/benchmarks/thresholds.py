"""Where the page draws its lines, on photos with captions: "no good match" and "nearly the same".

`python -m tests.benchmarks.thresholds 'shards/dev-*.tar'` prints for some values of
`index.verdict.MIN_SCORE` how many texts are said to fit no photo: captions of the photos, and
subjects that hardly any photo shows. Then, for some values of `index.alike.ALIKE`, how many copies
of photos fold under the photo itself, and how many different photos do.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageEnhance

# What photos of people, dogs and sports don't show; look through the best photos for other data.
ABSENT = (
    "a giraffe", "an elephant", "a zebra", "a penguin", "a shark", "a lion", "a snake", "a bear",
    "a kangaroo", "a butterfly", "an owl", "a parrot", "a goldfish in a bowl", "a spider",
    "an airplane", "a helicopter", "a rocket launch", "a submarine", "a cargo ship", "a tank",
    "a traffic light", "a steam locomotive", "a pizza", "a hamburger", "sushi on a plate",
    "a bowl of soup", "a birthday cake with candles", "a wedding dress", "a piano", "a violin",
    "a laptop computer", "a keyboard and a mouse", "a television", "a refrigerator",
    "a toilet in a bathroom", "a bed in a hotel room", "a bookshelf", "a clock on a tower",
    "a lighthouse", "a windmill", "a castle", "a pyramid in the desert", "the moon at night",
)  # fmt: skip


def copies(photo: Image.Image) -> dict[str, Image.Image]:
    """What people have of a photo, beside the photo itself."""
    poor = io.BytesIO()
    photo.save(poor, "JPEG", quality=40)
    width, height = photo.size
    left, top = round(width * 0.025), round(height * 0.025)
    return {
        "quality 40": Image.open(poor).convert("RGB"),
        "half size": photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
        "cropped 5 %": photo.crop((left, top, width - left, height - top)),
        "brighter": ImageEnhance.Brightness(photo).enhance(1.1),
    }


def no_match(retriever, images: np.ndarray, photos: list[Path], captions: list[str]) -> None:
    """Print for how many captions and absent subjects no photo seems to fit."""
    from index.hits import Hit
    from index.rerank import match_hits
    from index.verdict import CANDIDATES, MIN_SCORE, verdict_of

    verdicts: dict[str, list] = {"captions": [], "absent subjects": []}
    for kind, texts in (("captions", captions), ("absent subjects", ABSENT)):
        for text in texts:
            query = retriever.embed_texts([text])[0].numpy()  # [d]
            scores = (images @ query).max(1)  # [P]
            best = np.argsort(-scores)[:CANDIDATES]
            hits = [Hit(1, photos[i], float(scores[i]), None, False) for i in best]
            matched = match_hits(retriever, hits, text)
            verdicts[kind].append(verdict_of(matched, retriever.temperature))
    print(f"no good match ({len(photos)} photos, {len(captions)} captions, {len(ABSENT)} subjects)")
    for line in sorted({MIN_SCORE, *np.arange(8, 25) / 2}):
        shares = [np.mean([not v.fits_at(line) for v in of]) for of in verdicts.values()]
        print(f"  {line:5.1f}  captions {shares[0]:.3f}  absent subjects {shares[1]:.3f}")


def folding(retriever, images: np.ndarray, photos: list[Path], copied: int, folder: Path) -> None:
    """Print how many copies of the first photos, and how many different photos of all, fold."""
    from blip2.processing import open_photo
    from index.alike import ALIKE, likeness, look_alike
    from index.hits import Hit

    def hit(path: Path) -> Hit:
        return Hit(1, path, 1.0, None, False)

    alike: dict[str, list[tuple[float, bool]]] = {}
    for path, own in zip(photos[:copied], images, strict=False):
        made = copies(open_photo(path))
        paths = [folder / f"{path.stem}-{number}.png" for number in range(len(made))]
        for copy, picture in zip(paths, made.values(), strict=True):
            picture.save(copy)
        near = likeness(own, retriever.embed_images(paths).numpy())  # [4]
        for name, copy, value in zip(made, paths, near, strict=True):
            alike.setdefault(name, []).append((float(value), look_alike(hit(path), hit(copy))))
            copy.unlink()
    others = []
    for number, own in enumerate(images[:-1]):
        near = likeness(own, images[number + 1 :])
        # Pixels are compared where embeddings are alike only, as the product does.
        for at in np.flatnonzero(near >= 0.5) + number + 1:
            same = look_alike(hit(photos[number]), hit(photos[at]))
            others.append((number, at, float(near[at - number - 1]), same))
    print(f"nearly the same ({copied} photos copied, {len(photos)} compared with each other)")
    for line in sorted({ALIKE, *np.arange(10, 20) / 20}):
        shares = "  ".join(
            f"{name} {np.mean([near >= line and same for near, same in of]):.3f}"
            for name, of in alike.items()
        )
        both = sum(near >= line and same for _, _, near, same in others)
        alone = len({at for _, at, near, _ in others if near >= line})
        print(f"  {line:4.2f}  {shares}  different {both}, by embeddings alone {alone}")


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", help="photos with captions")
    parser.add_argument("--retriever", default="mini-itm", help="(mini-itm)")
    parser.add_argument("--copies", type=int, default=200, help="photos that are copied (200)")
    args = parser.parse_args(argv)
    from blip2 import Blip2Retriever
    from train.shards import iter_samples

    retriever = Blip2Retriever.from_pretrained(args.retriever)
    with TemporaryDirectory() as name:
        photos, captions = [], []
        for number, sample in enumerate(iter_samples(args.shards)):
            photos.append(Path(name) / f"{number:05}.jpg")
            photos[-1].write_bytes(sample.image)
            captions.append(sample.captions[0])
        images = retriever.embed_images(photos).numpy()  # [P, Q, d]
        no_match(retriever, images, photos, captions)
        folding(retriever, images, photos, args.copies, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
