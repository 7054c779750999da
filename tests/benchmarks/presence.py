"""Above which probability by ITM what a question names counts as there (`presence_threshold`).

`python -m tests.benchmarks.presence 'shards/qa-dev-*.tar' --skip 300` puts the "is there" questions
of the photos after the first 300 to ITM and prints, for some thresholds, how many are answered
right where they are to be affirmed and to be denied, and the best threshold by the mean of both.
`train.evaluate vqa --limit 300` then measures on photos that it was not fitted on.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np


def asked(photos: list, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities by ITM of what questions name, and whether it is there."""
    from tqdm import tqdm

    from blip2 import Blip2Retriever
    from blip2.presence import thing_asked_for
    from train.answers import normalise

    retriever = Blip2Retriever.from_pretrained(model)
    found, there = [], []
    for sample in tqdm(photos, unit="photo"):
        answered = [entry for entry in sample.qa if entry["answers"]]
        things = [(thing_asked_for(e["question"]), normalise(e["answers"][0])) for e in answered]
        things = [(thing, answer) for thing, answer in things if thing]
        if things:
            found += retriever.match([sample.image] * len(things), [t for t, _ in things]).tolist()
            there += [answer == "yes" for _, answer in things]
    return np.array(found), np.array(there, bool)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.presence")
    parser.add_argument("data", help="shards with questions, from train.make_qa")
    parser.add_argument("--model", default="mini-itm", help="folder, or mini-itm")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="photos at the beginning")
    args = parser.parse_args(argv)

    from train.shards import iter_samples

    photos = [sample for sample in iter_samples(args.data) if sample.qa][args.skip :]
    match, there = asked(photos, args.model)
    if there.all() or not there.any():
        print(f"{args.data} asks for nothing that is there, or that is not.", file=sys.stderr)
        return 2
    print(f"{len(there)} questions on {len(photos)} photos, {there.mean():.3f} to be affirmed")

    def right(threshold: float) -> tuple[float, float]:
        return (match[there] > threshold).mean(), (match[~there] <= threshold).mean()

    for threshold in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        yes, no = right(threshold)
        print(f"{threshold:.2f}: yes {yes:.3f}, no {no:.3f}, balanced {(yes + no) / 2:.3f}")
    best = max(np.unique(match), key=lambda threshold: sum(right(threshold)))
    print(f"best: {best:.3f}, balanced {sum(right(best)) / 2:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
