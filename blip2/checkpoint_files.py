"""Where a checkpoint is, and whether its files are of the wanted kind; needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from blip2.config import SMALL_LANGUAGE_MODELS, Blip2Config
from blip2.errors import UserError

EMBEDDED = Path(__file__).parent / "pretrained"
ARCHITECTURES = {1: "Blip2ForImageTextRetrieval", 2: "Blip2ForConditionalGeneration"}  # by stage
WHOLE, PART = 256 * 2**20, 64 * 2**10  # bytes, of a file and of a part of it that is hashed
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]  # files of a checkpoint of the Hub


class CheckpointError(UserError):
    """A checkpoint that is absent, incomplete or of another shape."""


def check_model(
    name: str, stage: int, say: Callable[[str], None], quantize: str | None = None
) -> None:
    """Refuse a model that cannot be loaded, as far as its files tell.

    For commands, before they import torch, which takes seconds. A model of the Hub that is not in
    the cache is downloaded now.

    Parameters
    ----------
    name : str
        As :func:`blip2.sources.open_source` takes it.
    stage : int
        1 for a retriever, 2 for a generator.
    say : callable
        Told what is looked for where that can take long.
    quantize : str, optional
        ``"8bit"`` or ``"4bit"``, which a small language model refuses.

    Raises
    ------
    UserError
        There is none of this name, or it is damaged, of the other stage or not to be quantised.
    """
    if name.endswith(".pth"):
        check_file(name)
        return
    folder = find_local(name) or find_cached(name)
    if folder is None:
        say(f"Looking for {name} on the Hugging Face Hub ...")
        folder = fetch_from_hub(name)
    if is_huggingface(folder):
        check_architecture(folder, stage)
        return
    config = read_stage(folder, stage)
    weight_files(folder)
    if quantize and config.language_model in SMALL_LANGUAGE_MODELS:
        raise CheckpointError(too_small(config.language_model))
    if config.grounding:
        check_model(config.grounding, 1, say)


def find_checkpoint(name: str) -> Path:
    """Folder of an embedded checkpoint (``"mini"``, ``"mini-itm"``), of a path or from the Hub.

    Raises
    ------
    CheckpointError
        There is no such folder, or the Hub doesn't give it.
    """
    return find_local(name) or fetch_from_hub(name)


def find_local(name: str) -> Path | None:
    """Folder of an embedded checkpoint or of a path; None for a name that the Hub may have.

    Raises
    ------
    CheckpointError
        There is no such folder, and it can't be a name of the Hub.
    """
    embedded = sorted(path.name for path in EMBEDDED.glob("*") if path.is_dir())
    folder = EMBEDDED / name if name in embedded else Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not folder.exists():
        return None
    raise CheckpointError(
        f"There is no model {name!r}: it is neither embedded ({', '.join(embedded) or 'none is'}) "
        "nor a folder with config.json; correct the name."
    )


def find_cached(name: str) -> Path | None:
    """Folder of a checkpoint of the Hub that is in the cache, None if it isn't."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    # A download that was broken off leaves a folder without some of the files.
    there = os.path.isfile(folder / "config.json") and any(folder.glob("*.safetensors"))
    return folder if there else None


def fetch_from_hub(name: str) -> Path:
    """Folder of a checkpoint of the Hugging Face Hub, downloaded unless it is cached.

    Raises
    ------
    CheckpointError
        The Hub can't be reached, or has no such checkpoint for this user.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, httpx.HTTPError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            problem = "the Hugging Face Hub can't be reached and it is not in the cache"
        elif isinstance(error, HfHubHTTPError):
            problem = "the Hugging Face Hub has none of this name for you"
        else:
            problem = f"its download failed ({error})"
        raise CheckpointError(
            f"The model {name} can't be loaded: {problem}; try again later, name a folder, or use "
            "the embedded mini and mini-itm."
        ) from error


def check_file(path: str | Path) -> None:
    """Refuse a file of LAVIS that is not there.

    Raises
    ------
    CheckpointError
        It does not exist, or is a folder.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"The file {path} does not exist; check the path.")


def is_huggingface(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is of this layout and not of ours."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # who reads it as ours says what is wrong
    return isinstance(data, dict) and data.get("model_type") in ("blip-2", "blip_2")


def check_architecture(folder: Path, stage: int) -> None:
    """Refuse a checkpoint in Hugging Face's layout that is of another kind than wanted.

    Raises
    ------
    CheckpointError
        It is of the other stage, or no BLIP-2.
    """
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = (data.get("architectures") or ["none"])[0]
    if named != ARCHITECTURES[stage]:
        raise CheckpointError(
            f"{folder} holds a {named} and a {ARCHITECTURES[stage]} is needed here; choose such a "
            "checkpoint."
        )


def read_stage(folder: Path, stage: int) -> Blip2Config:
    """Read a checkpoint's configuration and see that it is of the wanted stage.

    Raises
    ------
    CheckpointError
        It is of the other stage.
    """
    config = Blip2Config.read(folder / "config.json")
    if config.stage != stage:
        kinds = {1: "a retriever (stage 1)", 2: "a generator (stage 2)"}
        raise CheckpointError(
            f"{folder.name} is {kinds[config.stage]} and {kinds[stage]} is needed here; "
            f"try {'mini-itm' if stage == 1 else 'mini'}."
        )
    return config


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises
    ------
    CheckpointError
        There is none.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"No .safetensors file is in {folder}; restore the checkpoint.")
    return files


def too_small(language_model: str) -> str:
    """The sentence that refuses to quantise or to spread a small language model."""
    return (
        f"{language_model} is neither quantised nor spread over devices, because it is small: "
        "8-bit and 4-bit would be slower; leave these options out."
    )


def fingerprint(folder: str | Path) -> str:
    """Hex digest of a checkpoint's configuration and weights; an index belongs to exactly one."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*")):
        if path.name == "config.json" or path.suffix == ".safetensors":
            digest.update(path.name.encode() + file_digest(path))
    return digest.hexdigest()


def local_fingerprint(name: str) -> str | None:
    """Fingerprint of an embedded checkpoint or of one in a folder, None for any other name."""
    folder = EMBEDDED / name if (EMBEDDED / name).is_dir() else Path(os.path.expanduser(name))
    return fingerprint(folder) if (folder / "config.json").is_file() else None


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file; of one above 256 MB, of its length and 256 parts spread over it.

    Reading 30 GB would take longer than loading them; training on changes all tensors, so that
    the parts tell two checkpoints apart.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for part in range(256):
            file.seek(part * (size - PART) // 255)
            digest.update(file.read(PART))
    return digest.digest()
