"""Measure a model on shards: captions, answers to questions, or retrieval in both directions.

Examples
--------
::

    python -m train.evaluate caption --model mini --data dev.tar --output caption.json
    python -m train.evaluate vqa --model mini --data vqa.tar --output vqa.json
    python -m train.evaluate retrieval --model mini-itm --data dev.tar --output retrieval.json

With ``--against`` a figure is held against a published one, where the protocols are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blip2.display import one_line
from blip2.errors import UserError
from train.anchors import find_anchors, verdict
from train.breakdown import table
from train.command import count, exit_status, positive
from train.reports import check_output, describe_shards, provenance, shorten, write_report
from train.shards import ShardReport, iter_samples
from train.tasks import evaluate_answers, evaluate_captions, evaluate_retrieval, usable

# (task, model ID, device or None) -> the model
TASKS = {"caption": evaluate_captions, "vqa": evaluate_answers, "retrieval": evaluate_retrieval}
Load = Callable[[str, str, str | None], Any]


@exit_status
def main(argv: Sequence[str] | None = None, load: Load | None = None) -> None:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    load : callable, optional
        Makes the model, instead of ``from_pretrained``.

    Raises
    ------
    UserError
        One that the user can put right: said on stderr, and the exit status is 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    check_output(args.output)
    anchors = find_anchors(args.against, args.task)
    read, what = ShardReport(), "qa" if args.task == "vqa" else "captions"
    samples = usable(iter_samples(args.data, report=read), read, args.limit, what)
    if not samples:
        raise UserError(f"No photo with {what} is in {args.data}; give shards with {what}.")
    model = (load or load_model)(args.task, args.model, args.device)
    result = TASKS[args.task](model, samples, args)
    claimed = {key: getattr(args, key) for key in ("dataset", "split", "fine_tuned")}
    protocol = claimed | result["settings"] | result["counts"]
    report = {
        "task": args.task,
        "model": _describe_model(args.model, model),
        "data": {
            "source": shorten(args.data),
            "shards": describe_shards(read.shards),
            "left_out": [{"sample": shorten(s), "why": why} for s, why in read.broken],
        },
        "protocol": claimed,
        **result,
        "verdicts": [verdict(a, args.task, protocol, result["metrics"]) for a in anchors],
        **provenance(argv),
    }
    write_report(args.output, report)
    if read.broken:
        print(f"warning: {read.describe()}", file=sys.stderr)
    for name, value in _flat(report["metrics"]):
        print(f"{name:<20} {'-' if value is None else f'{value:.4f}'}")
    if args.task == "vqa":
        print(*table(report["by_type"], report["yes_no"]), sep="\n")
    for one in report["verdicts"]:
        why = "; ".join(one.get("differences", [f"{one['metric']} published {one['published']}"]))
        print(f"{one['anchor']}: {one['verdict']} ({why})")
    print(f"report: {one_line(args.output)}")


def load_model(task: str, name: str, device: str | None) -> Any:
    """Load the model that a task measures."""
    from blip2 import Blip2, Blip2Retriever

    kind = Blip2Retriever if task == "retrieval" else Blip2
    return kind.from_pretrained(name, device=device)


def _describe_model(given: str, model: Any) -> dict:
    device = getattr(model, "device", None)
    return {
        "id": shorten(given),
        "name": shorten(str(getattr(model, "name", given))),
        "fingerprint": getattr(model, "fingerprint", None),
        "device": None if device is None else str(device),
    }


def _flat(metrics: dict, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Measure a model on shards of photos with captions or questions.",
        epilog="Example: python -m train.evaluate caption --model mini --data "
        "'dev-*.tar' --output report.json",
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="{caption,vqa,retrieval}")
    caption = tasks.add_parser("caption", help="BLEU, METEOR, ROUGE-L and CIDEr of captions")
    vqa = tasks.add_parser("vqa", help="VQA accuracy, or exact match, by type of question")
    retrieval = tasks.add_parser("retrieval", help="recalls at 1, 5 and 10 in both directions")
    for task, model in ((caption, "mini"), (vqa, "mini"), (retrieval, "mini-itm")):
        task.epilog = (
            f"Example: python -m train.evaluate {task.prog.split()[-1]} --model {model} "
            "--data 'dev-*.tar' --output report.json"
        )
        add = task.add_argument
        add("--model", required=True, metavar="ID", help=f"such as {model}, or a folder")
        add("--data", required=True, metavar="SHARDS", help="tar, glob, {000..005}, folder, list")
        add("--output", required=True, type=Path, metavar="FILE", help="the report, JSON")
        add("--limit", type=positive, metavar="N", help="only the first N photos")
        add("--batch-size", type=positive, metavar="N", help="photos or pairs at a time")
        add("--device", metavar="D", help="such as cpu or cuda:0")
        add("--dataset", metavar="NAME", help="what the data are, as published figures say it")
        add("--split", metavar="NAME", help="such as karpathy-test")
        add("--fine-tuned", metavar="NAME", help="data set that the model was tuned on, or none")
        add("--against", action="append", default=[], metavar="FIGURE", help="published, or all")
    for task, length, penalty in ((caption, 30, 1.0), (vqa, 10, -1.0)):
        add = task.add_argument
        add("--prompt", default="", metavar="TEXT", help="{} for a question; the model's own")
        add("--num-beams", type=positive, default=5, metavar="N", help="default 5")
        for name, value in (("max", length), ("min", 1)):
            add(f"--{name}-new-tokens", type=positive, default=value, metavar="N",
                help=f"default {value}")  # fmt: skip
        add("--length-penalty", type=float, default=penalty, metavar="X", help=f"default {penalty}")
    add = caption.add_argument
    add("--no-meteor", dest="meteor", action="store_false", help="do not wait for its Java program")
    add = retrieval.add_argument
    add("--k-test", type=count, default=64, metavar="N", help="re-ranked a query; 0: none")
    add("--captions-per-photo", type=positive, default=5, metavar="N", help="default 5")
    add("--texts-limit", type=positive, metavar="N", help="re-rank for N evenly spaced texts")
    add("--itc-weight", type=float, metavar="X", help="of the cosine in itm+itc: 1/temperature")
    return parser


if __name__ == "__main__":
    sys.exit(main())
