"""Ours against transformers' own BLIP-2, on the same random weights.

`python -m tests.benchmarks.versus_transformers` prints, in fp32 and bf16 and for 1 and 8 photos:
time to the first token, tokens/s, photos embedded a second, the second turn of a chat, and peak
memory: ours, theirs, and the ratio of the times (of the memories), each the median of interleaved
runs. Not a test: pytest does not collect it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOKENS = 20
ANSWER = 8  # tokens of an answer in a chat
QUESTIONS = ("a photo of the dog", "what is on the red grass ?")
IMAGE = 40_000  # a token that no prompt holds


def write_checkpoints(folder: Path) -> None:
    """Write a generator and a retriever: ViT-B, BERT-base, and OPT-125M, all random."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2ForImageTextRetrieval,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    from tests.parity.published import tokenizer

    torch.manual_seed(0)
    vision = Blip2VisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        initializer_range=0.02,
    )  # fmt: skip
    for kind, cls in (("opt", Blip2ForConditionalGeneration), ("itm", Blip2ForImageTextRetrieval)):
        config = Blip2Config(
            vision_config=vision,
            qformer_config=Blip2QFormerConfig(use_qformer_text_input=kind == "itm"),
            text_config=OPTConfig() if kind == "opt" else None,  # its defaults are OPT-125M's
            image_token_index=IMAGE if kind == "opt" else None,
        )
        model = cls(config)
        torch.nn.init.normal_(model.query_tokens, std=0.02)
        model.save_pretrained(folder / kind)
        tokenizer(kind).save_pretrained(folder / kind)


class Ours:
    """What is timed, with our code."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch

        from blip2 import Blip2, Blip2Retriever

        options = {"device": "cpu", "dtype": getattr(torch, dtype)}
        self.model = Blip2.from_pretrained(str(folder / "opt"), **options)
        self.retriever = Blip2Retriever.from_pretrained(str(folder / "itm"), **options)

    def generate(self, photos: list, tokens: int) -> None:
        """Answer one prompt about each photo with a fixed number of tokens."""
        self.model.generate(photos, QUESTIONS[0], max_new_tokens=tokens, min_new_tokens=tokens)

    def embed(self, photos: list) -> None:
        """Embed photos for search."""
        self.retriever.embed_images(photos)

    def chat(self, photo: object) -> Callable[[], None]:
        """Ask a first question; gives what asks the second."""
        options = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}
        chat = self.model.chat(photo)
        chat.ask(QUESTIONS[0], **options)
        return lambda: chat.ask(QUESTIONS[1], **options)


class Theirs:
    """The same with transformers."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import (
            AutoTokenizer,
            Blip2ForConditionalGeneration,
            Blip2ForImageTextRetrieval,
            BlipImageProcessorPil,
        )

        options = {"dtype": getattr(torch, dtype)}
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder / "opt", **options)
        self.retriever = Blip2ForImageTextRetrieval.from_pretrained(folder / "itm", **options)
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "opt")
        self.processor = BlipImageProcessorPil(
            size={"height": 224, "width": 224},
            image_mean=[0.48145466, 0.4578275, 0.40821073],
            image_std=[0.26862954, 0.26130258, 0.27577711],
        )
        self.dtype = options["dtype"]

    def _pixels(self, photos: list) -> object:
        return self.processor(photos, return_tensors="pt")["pixel_values"].to(self.dtype)

    def _answer(self, photos: list, text: str, tokens: int) -> str:
        import torch

        words = self.tokenizer(f"</s>{text}", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[IMAGE] * 32 + words] * len(photos))
        end = self.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
        out = self.model.generate(
            self._pixels(photos), input_ids=ids, attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        return self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)[0]

    def generate(self, photos: list, tokens: int) -> None:
        """As :meth:`Ours.generate`."""
        self._answer(photos, QUESTIONS[0], tokens)

    def embed(self, photos: list) -> None:
        """As :meth:`Ours.embed`, with the parts that make embeddings and nothing else."""
        import torch

        model = self.retriever
        with torch.inference_mode():
            features = model.vision_model(self._pixels(photos)).last_hidden_state
            queries = model.qformer(
                query_embeds=model.query_tokens.expand(len(photos), -1, -1),
                encoder_hidden_states=features,
            ).last_hidden_state
            projected = model.vision_projection(queries.to(model.vision_projection.weight.dtype))
            torch.nn.functional.normalize(projected, dim=-1)

    def chat(self, photo: object) -> Callable[[], None]:
        """As :meth:`Ours.chat`; each turn is a prompt with all before it."""
        first = f"Question: {QUESTIONS[0]} Answer:"
        text = f"{first} {self._answer([photo], first, ANSWER)} Question: {QUESTIONS[1]} Answer:"
        return lambda: self._answer([photo], text, ANSWER)


SIDES = {"ours": Ours, "theirs": Theirs}


def measure(folder: Path, dtype: str, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each task by side, medians of interleaved runs."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    photos = [
        Image.fromarray(draw.integers(0, 255, (224, 224, 3), dtype=np.uint8)) for _ in range(count)
    ]
    sides = {name: side(folder, dtype) for name, side in SIDES.items()}
    tasks: dict[str, Callable] = {
        "first token": lambda side: side.generate(photos, 1),
        f"{TOKENS} tokens": lambda side: side.generate(photos, TOKENS),
        "embed": lambda side: side.embed(photos),
    }
    taken: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds + 1):  # the first warms up
        for name, side in sides.items():
            ready = {task: lambda run=run, side=side: run(side) for task, run in tasks.items()}
            if count == 1:
                ready["second turn"] = side.chat(photos[0])
            for task, run in ready.items():
                start = time.perf_counter()
                run()
                if turn:
                    seconds = time.perf_counter() - start
                    taken.setdefault(task, {}).setdefault(name, []).append(seconds)
    return {
        task: {name: statistics.median(times) for name, times in by_side.items()}
        for task, by_side in taken.items()
    }


def peak_memory(folder: Path, side: str, dtype: str, count: int) -> float:
    """Peak memory of a process that loads one side and answers, in GB."""
    command = [sys.executable, "-m", __spec__.name, "--one", side, str(folder), dtype, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(side: str, folder: str, dtype: str, count: str) -> None:
    """Load one side, answer and embed, and print this process's peak memory in GB."""
    from PIL import Image

    one = SIDES[side](Path(folder), dtype)
    photos = [Image.new("RGB", (224, 224), "teal")] * int(count)
    one.generate(photos, TOKENS)
    one.embed(photos)
    # Not ru_maxrss, which a child inherits from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each task (7)")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(*options.one)
        return
    print(f"{'':9} {'photos':>6}  {'':22} {'ours':>9} {'theirs':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoints(folder)
        for dtype in ("float32", "bfloat16"):
            for count in (1, 8):
                found = measure(folder, dtype, count, options.rounds)
                rows = []
                for task, seconds in found.items():
                    ratio = seconds["ours"] / seconds["theirs"]
                    if task == f"{TOKENS} tokens":
                        speed = {s: TOKENS * count / t for s, t in seconds.items()}
                        rows.append(("tokens/s", speed, ratio))
                    elif task == "embed":
                        speed = {s: count / t for s, t in seconds.items()}
                        rows.append(("photos/s embedded", speed, ratio))
                    else:
                        rows.append((f"{task}, s", seconds, ratio))
                memory = {s: peak_memory(folder, s, dtype, count) for s in SIDES}
                rows.append(("peak memory, GB", memory, memory["ours"] / memory["theirs"]))
                for task, by_side, ratio in rows:
                    values = " ".join(f"{by_side[side]:9.3f}" for side in SIDES)
                    print(f"{dtype:9} {count:6}  {task:22} {values} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
