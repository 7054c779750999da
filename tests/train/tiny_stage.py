"""Both stages as their commands run them, small enough to be killed twenty times.

`torchrun -m tests.train.tiny_stage stage1 RECIPE key=value ...` runs one of them.
"""

import io
import json
import os
import resource
import sys
import tarfile
from pathlib import Path

import torch
from PIL import Image

from blip2.config import PRESETS
from blip2.language import LANGUAGE_MODELS
from blip2.vision import IMAGE_ENCODERS
from tests.tiny import STAGE1, STAGE2, Cells, language_model, text_tokenizer
from train import stage1, stage2

PHOTOS, BATCH = 14, 4  # three steps a pass


def prepare(folder: Path, names: str = "p") -> None:
    """Write a shard, and word pieces beside random weights to start from."""
    from blip2.checkpoints import save_checkpoint
    from blip2.representation import Representation

    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number in range(PHOTOS):
            file = io.BytesIO()
            Image.new("RGB", (24, 24), (number * 17, 90, 255 - number * 17)).save(file, "PNG")
            words = ["dog", "cat", "ball"][number % 3]
            text = {
                "image_id": f"{names}{number}",
                "captions": [f"a red {words}", f"a blue {words}"],
                "qa": [
                    {"question": "what is this", "answers": [words, f"a {words}"]},
                    {"question": "what is red in this photo", "answers": [f"the {words}"]},
                ],
            }
            for suffix, data in (("png", file.getvalue()), ("json", json.dumps(text).encode())):
                member = tarfile.TarInfo(f"{names}{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    torch.manual_seed(0)
    save_checkpoint(Representation(STAGE1), STAGE1, folder / "start")
    text_tokenizer().save(str(folder / "start" / "tokenizer.json"))
    (folder / "recipe.yaml").write_text(
        f"preset: tiny-itm\ndata: {folder}/photos.tar\nstart: {folder}/start\nviews: 2\n"
        f"cache: {folder}/cache\nbatch_size: {BATCH}\nlearning_rate: 1e-3\nwarmup_steps: 5\n"
        "precision: 'no'\ntoken_keep: 0.7\nhardness_epochs: 4\nlog_every: 1\n"
    )


def register() -> None:
    """Make the tiny parts known, as a user with parts of their own does."""
    torch.set_num_threads(1)
    IMAGE_ENCODERS["cells"], LANGUAGE_MODELS["tiny"] = Cells, language_model
    PRESETS["tiny-itm"] = type(STAGE1)(**{**vars(STAGE1), "image_encoder": "cells"})
    parts = {"image_encoder": "cells", "language_model": "tiny"}
    PRESETS["tiny"] = type(STAGE2)(**{**vars(STAGE2), **parts})


def run(folder: Path, output: Path, epochs: int, save_every: int, file_limit: int = 0) -> None:
    """Run the command in this process, which ends; its error goes to the file ``said``.

    ``file_limit`` is the size in bytes at which writing a file fails, as on a full disk.
    """
    register()
    output.mkdir(exist_ok=True)
    error = os.open(output / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(error, 2)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    arguments = [f"output={output}", f"epochs={epochs}", f"save_every={save_every}"]
    raise SystemExit(stage1.main([str(folder / "recipe.yaml"), *arguments]))


if __name__ == "__main__":
    register()
    raise SystemExit({"stage1": stage1, "stage2": stage2}[sys.argv[1]].main(sys.argv[2:]))
