"""Where training data come from: shards, JSON of COCO, Karpathy or VQA v2, or a plain folder.

A source is written as one text, so that a recipe and a command line can name it:

- ``shards/train-{000000..000005}.tar``: WebDataset shards, see :mod:`train.shards`;
- ``captions.json@photos`` or ``dataset_coco.json@photos#train``: COCO's annotations, or
  Karpathy's, whose photos lie in the folder ``photos``; of Karpathy's, one split;
- ``questions.json+annotations.json@photos``: VQA v2's questions with people's answers;
- ``photos``: a folder of photos, each with a ``.txt`` (a caption on each line) or a ``.json`` (as
  in shards) of the same name beside it;
- several of them with commas between, and ``3x SOURCE`` or ``0.5x SOURCE`` for one that a pass
  shall see three times, or half of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip2.errors import UserError
from blip2.photo_formats import READABLE
from train.shards import (
    IMAGE_KINDS,
    Place,
    Sample,
    ShardReport,
    iter_samples,
    sample_of,
    split_outside_braces,
)

_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)x\s+(.+)")


@dataclass(frozen=True)
class Source:
    """One part of the training data.

    Attributes
    ----------
    text : str
        As it was named, without its weight.
    weight : float
        How often a pass sees each of its photos, on average.
    prefix : str
        Stands before each ``image_id``, where several sources may use the same.
    """

    text: str
    weight: float = 1.0
    prefix: str = ""

    def samples(
        self, report: ShardReport | None = None, with_image: bool = True
    ) -> Iterator[Sample]:
        """Read it from its beginning; the rest is as in :func:`train.shards.iter_samples`.

        Raises
        ------
        UserError
            It is not there, can't be read, or holds no usable sample.
        """
        annotations, at, folder = self.text.partition("@")
        if self.of_shards:
            found = iter_samples(self.text, with_image, report)
        elif at:
            folder, _, split = folder.partition("#")
            whole = Path(annotations).expanduser()
            pair = [Path(name).expanduser() for name in annotations.split("+")]
            paths = pair if len(pair) == 2 and not whole.is_file() else [whole]
            place = Path(folder).expanduser()
            found = self._checked(_from_annotations(paths, place, split, with_image), report)
        else:
            found = self._checked(_from_folder(Path(self.text).expanduser(), with_image), report)
        for sample in found:
            sample.image_id = self.prefix + sample.image_id
            yield sample

    @property
    def of_shards(self) -> bool:
        """Whether it names WebDataset shards."""
        folder = Path(self.text).expanduser()
        return "@" not in self.text and not (folder.is_dir() and not any(folder.glob("*.tar")))

    def _checked(
        self, found: Iterator[tuple[str, Sample | str]], report: ShardReport | None
    ) -> Iterator[Sample]:
        count = 0
        if report is not None:
            report.shards.append(self.text)
        for name, sample in found:
            if isinstance(sample, Sample):
                count += 1
                if report is not None:
                    report.samples += 1
                yield sample
            elif report is None:
                raise UserError(f"{name} in {self.text} is broken: {sample}; repair it.")
            else:
                report.broken.append((name, sample))
        if not count:
            raise UserError(f"No usable sample is in {self.text}; each needs a photo and text.")


def find_sources(text: str) -> list[Source]:
    """Take apart what a recipe's ``data`` names.

    Raises
    ------
    UserError
        Nothing is named, or a weight is 0.
    """
    found: list[Source] = []
    for part in split_outside_braces(text):
        match = _WEIGHT.fullmatch(part.strip())
        weight, name = (float(match[1]), match[2]) if match else (1.0, part.strip())
        if name and not weight:
            raise UserError(f"The weight of {name} is 0; leave the source out instead.")
        last = found[-1] if found else None
        if name and last and last.weight == weight and last.of_shards and Source(name).of_shards:
            found[-1] = Source(f"{last.text},{name}", weight)  # one set of shards
        elif name:
            found.append(Source(name, weight))
    if not found:
        raise UserError("No data were named; give shards, a JSON with its folder, or a folder.")
    if len(found) == 1:
        return found
    return [replace(source, prefix=f"{number}/") for number, source in enumerate(found)]


def _from_annotations(
    paths: list[Path], folder: Path, split: str, with_image: bool
) -> Iterator[tuple[str, Sample | str]]:
    """Photos of COCO's captions JSON, of Karpathy's or of VQA v2's pair, with their texts."""
    named = " and ".join(map(str, paths))
    try:
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        asked = len(paths) == 2
        karpathy = not asked and "annotations" not in contents[0]
        read = _questions if asked else _karpathy if karpathy else _coco
        entries = list(read(*contents, split))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{named} is no JSON of COCO's, Karpathy's or VQA v2's form "
            f"({type(error).__name__}: {error}); check the file."
        ) from error
    if split and not karpathy:
        raise UserError(f"{named} has no splits as Karpathy's JSON has; leave #{split} out.")
    if not entries:
        raise UserError(f"No photo of the split {split!r} is in {named}; choose another.")
    for image_id, names, texts in entries:
        photo = next((folder / name for name in names if (folder / name).is_file()), None)
        if photo is None:
            yield names[0], f"it is not in {folder}"
        else:
            yield names[0], _sample(photo, {"image_id": image_id, **texts}, with_image)


Entries = Iterator[tuple[str, list[str], dict[str, list]]]  # image_id, possible names, texts


def _coco(content: dict[str, Any], split: str) -> Entries:
    captions: dict[Any, list[str]] = {}
    for entry in content["annotations"]:
        captions.setdefault(entry["image_id"], []).append(entry["caption"])
    for image in content["images"]:
        texts = {"captions": captions.get(image["id"], [])}
        yield str(image["id"]), [image["file_name"]], texts


def _karpathy(content: dict[str, Any], split: str) -> Entries:
    for image in content["images"]:
        # Karpathy's "restval" is what everybody trains on beside "train".
        if split and image["split"] != split and (split, image["split"]) != ("train", "restval"):
            continue
        name = image["filename"]
        names = [f"{image['filepath']}/{name}", name] if image.get("filepath") else [name]
        image_id = str(image.get("cocoid", image.get("imgid", name)))
        yield image_id, names, {"captions": [sentence["raw"] for sentence in image["sentences"]]}


def _questions(questions: dict[str, Any], answers: dict[str, Any], split: str) -> Entries:
    said = {entry["question_id"]: entry for entry in answers["annotations"]}
    subset = questions["data_subtype"]
    asked: dict[int, list[dict]] = {}
    for entry in questions["questions"]:
        people = said[entry["question_id"]]
        asked.setdefault(entry["image_id"], []).append(
            {
                "question": entry["question"],
                "answers": [given["answer"] for given in people["answers"]],
                "answer_type": people["answer_type"],
                "question_type": people["question_type"],
            }
        )
    for image_id, qa in asked.items():
        number = f"{image_id:012d}.jpg"
        yield str(image_id), [f"COCO_{subset}_{number}", number], {"qa": qa}


def _from_folder(folder: Path, with_image: bool) -> Iterator[tuple[str, Sample | str]]:
    """Photos with a text of the same name beside them, by name."""
    photos = sorted(
        path for path in folder.rglob("*") if path.suffix[1:].lower() in IMAGE_KINDS
    )  # fmt: skip
    if not photos:
        raise UserError(f"No photo ({READABLE}) is in {folder}; check the path.")
    for photo in photos:
        name = str(photo.relative_to(folder))
        text, fields = photo.with_suffix(".txt"), photo.with_suffix(".json")
        try:
            if fields.is_file():
                content = json.loads(fields.read_text(encoding="utf-8"))
            elif text.is_file():
                lines = text.read_text(encoding="utf-8").splitlines()
                content = {"captions": [line.strip() for line in lines if line.strip()]}
            else:
                yield name, "it has no .txt or .json beside it"
                continue
        except (OSError, ValueError) as error:
            yield name, f"its text can't be read ({error})"
            continue
        if isinstance(content, dict):
            content = {"image_id": str(photo.relative_to(folder).with_suffix(""))} | content
        yield name, _sample(photo, content, with_image)


def _sample(photo: Path, content: object, with_image: bool) -> Sample | str:
    try:
        place = Place(str(photo), 0, photo.stat().st_size)
    except OSError as error:
        return f"it can't be read ({error.strerror})"
    return sample_of(content, place, with_image)
