"""Average the weights of checkpoints that came of one another, or of one start.

Checkpoints of one lineage lie in one valley of the loss, and between them it is often lower than
at any of them (Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018; Wortsman et
al., "Model soups", ICML 2022). The average costs no more at inference than one of them.

Examples
--------
::

    python -m train.average runs/longer/model runs/first/model --weights 3,1 --out runs/soup
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.display import one_line
from blip2.errors import UserError
from train.command import exit_status

if TYPE_CHECKING:
    from torch import Tensor


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; 2 after an error that the user can put right, said on stderr."""
    args = _parser().parse_args(argv)
    weights = args.weights or [1.0] * len(args.models)
    average(args.models, weights, args.out)
    print(f"the average of {len(args.models)} models is in {one_line(args.out)}")


def average(models: Sequence[str], weights: Sequence[float], out: Path) -> None:
    """Write the weighted mean of models.

    Parameters
    ----------
    models : sequence of str
        Folders in this package's layout, or names of embedded models; what is no weight, such as
        ``match_temperature`` and word pieces, comes from the first.
    weights : sequence of float
        One a model; only their ratios matter.
    out : Path
        Folder for the result, not one that holds a model.

    Raises
    ------
    UserError
        The models are not of one make, the weights are not one a model or add up to nothing, or
        there is a model in ``out``.
    """
    from safetensors import SafetensorError

    from blip2.checkpoint_files import find_checkpoint, is_huggingface
    from blip2.checkpoints import read_tensors, write_tensors
    from blip2.config import Blip2Config

    if len(models) < 2:
        raise UserError("An average is of two models or more; name another.")
    usable = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if len(weights) != len(models) or not usable or not sum(weights):
        raise UserError(
            f"{len(models)} models need as many finite weights of at least 0, not all 0; give one "
            "a model with commas between."
        )
    if (out / "config.json").exists():
        raise UserError(f"There is a model in {out} already; choose another --out.")
    folders = [find_checkpoint(model) for model in models]
    config: Blip2Config | None = None
    total: dict[str, Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        if is_huggingface(folder):
            raise UserError(
                f"{folder} is in Hugging Face's layout; load it and save it with save_pretrained "
                "first."
            )
        other = Blip2Config.read(folder / "config.json")
        config = config or other
        fitted = (
            "name", "match_temperature", "grounding", "presence_threshold", "answers_questions"
        )  # fmt: skip
        same = replace(other, **{field: getattr(config, field) for field in fitted})
        tensors = read_tensors(folder)
        shapes = [{name: t.shape for name, t in each.items()} for each in (tensors, total)]
        if same != config or (total and shapes[0] != shapes[1]):
            raise UserError(
                f"{folder} is not made like {folders[0]}; average models of one configuration."
            )
        share = weight / sum(weights)
        for name, value in tensors.items():
            total[name] = share * value.float() + total.get(name, 0)
    try:
        write_tensors(total, config, out)
        if (folders[0] / "tokenizer.json").exists():
            shutil.copy(folders[0] / "tokenizer.json", out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot write to {out} ({error}); make room or choose another.") from error


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not numbers with commas between") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.average",
        description="Average the weights of models that came of one another.",
        epilog="example: python -m train.average runs/longer/model runs/first/model --weights 3,1 "
        "--out runs/soup",
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="folder, mini or mini-itm; two or more")
    add("--weights", type=_weights, metavar="W,W,...", help="one a model (equal)")
    add("--out", required=True, type=Path, metavar="FOLDER", help="for the average")
    return parser


if __name__ == "__main__":
    sys.exit(main())
