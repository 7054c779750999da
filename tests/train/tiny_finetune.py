"""Tiny published models to fine-tune: `torchrun -m tests.train.tiny_finetune FOLDER key=value ...`.

Run so, it fine-tunes for captions; FOLDER is prepared unless it was.
"""

import copy
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import torch
from PIL import Image

from blip2.checkpoints import save_checkpoint
from blip2.config import PRESETS
from blip2.representation import Representation
from blip2.sources import open_source
from blip2.vision import ARCHITECTURES, IMAGE_ENCODERS
from blip2.vision_transformers import EvaViT
from tests.parity.published import VISION, tokenizer, write
from train import finetune

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
THINGS = {"dog": 0, "cat": 255}
ASKED = {"what is this ?": "thing", "what question ?": "colour"}


def painted(colour, thing, shade=0):
    photo = Image.new("RGB", (56, 56), COLOURS[colour])
    photo.paste((abs(THINGS[thing] - shade),) * 3, (0, 28, 56, 56))
    return photo


def write_shard(path, shade):
    with tarfile.open(path, "w") as tar:
        for colour in COLOURS:
            for thing in THINGS:
                file = io.BytesIO()
                painted(colour, thing, shade).save(file, "PNG")
                said = {"colour": colour, "thing": thing}
                text = {
                    "image_id": f"{colour} {thing}",
                    "captions": [f"a photo of the {thing} in {colour}"],
                    "qa": [{"question": q, "answers": [said[a]] * 10} for q, a in ASKED.items()],
                }
                for suffix, data in (("png", file.getvalue()), ("json", json.dumps(text).encode())):
                    member = tarfile.TarInfo(f"{colour}-{thing}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def prepare(folder: Path) -> None:
    """Tiny published models of both stages, and shards."""
    whole = write("opt", folder / "opt")
    write("itm", folder / "itm", seed=1)
    whole.language_model.save_pretrained(folder / "words")
    tokenizer("opt").save_pretrained(folder / "words")
    write_shard(folder / "train.tar", 0)
    write_shard(folder / "dev.tar", 9)


def register(folder: Path) -> None:
    """The presets that the models are of."""

    def architecture():
        from transformers import Blip2VisionModel

        return EvaViT(Blip2VisionModel(copy.deepcopy(VISION)))

    IMAGE_ENCODERS["tiny-eva"] = ARCHITECTURES["tiny-eva"] = architecture
    for name, kind, stage in (("tiny-opt", "opt", 2), ("tiny-itm", "itm", 1)):
        config = open_source(str(folder / kind), stage).config
        language = str(folder / "words") if stage == 2 else ""
        parts = {"image_encoder": "tiny-eva", "language_model": language}
        PRESETS[name] = type(config)(**{**vars(config), **parts})


def forget() -> None:
    """Undo :func:`register`."""
    for registry, name in ((IMAGE_ENCODERS, "tiny-eva"), (ARCHITECTURES, "tiny-eva"),
                           (PRESETS, "tiny-opt"), (PRESETS, "tiny-itm")):  # fmt: skip
        del registry[name]


def write_stage1(folder: Path) -> None:
    """A stage 1 with the head of ITG, which the published layout lacks."""
    torch.manual_seed(0)
    parts = {"lm_head": True, "holds_image_encoder": True}
    config = type(PRESETS["tiny-itm"])(**{**vars(PRESETS["tiny-itm"]), **parts})
    own = Representation(config)
    source = open_source(str(folder / "itm"), 1)
    published = source.build(Representation, torch.device("cpu"))
    own.load_state_dict(published.state_dict(), strict=False)
    save_checkpoint(own, config, folder / "stage1", source.image_encoder(torch.float32))
    tokenizer("itm").save_pretrained(folder / "stage1")


def recipe(folder: Path, task: str) -> str:
    """A recipe of a task."""
    retrieval = task == "retrieval"
    path = folder / f"{task}.yaml"
    path.write_text(
        f"task: {task}\npreset: tiny-{'itm' if retrieval else 'opt'}\ndata: {folder}/train.tar\n"
        f"start: {folder / ('stage1' if retrieval else 'opt')}\ncache: ''\nbatch_size: 4\n"
        "train_encoder: true\nprecision: 'no'\nlearning_rate: 1e-3\nfinal_learning_rate: 0\n"
        "warmup_steps: 0\nprompts: [a photo of]\nlog_every: 50\n"
        f"dev_data: {folder}/dev.tar\n"
    )
    return str(path)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    torch.set_num_threads(1)
    if os.environ["RANK"] == "0" and not (place / "dev.tar").exists():
        prepare(place)
        recipe(place, "caption")
        (place / "ready").touch()
    while not (place / "ready").exists():
        pass
    register(place)
    raise SystemExit(finetune.main([str(place / "caption.yaml"), *sys.argv[2:]]))
