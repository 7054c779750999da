"""Checkpoints found and refused by their files, and the commands that do so before loading."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip2.checkpoint_files import (
    EMBEDDED,
    CheckpointError,
    check_model,
    find_cached,
    find_checkpoint,
)
from blip2.config import SMALL_LANGUAGE_MODELS
from blip2.errors import UserError
from index import PhotoIndex
from tests.index.fake_retriever import FakeRetriever, paint

ROOT = Path(__file__).parents[2]
SOON = 10  # seconds: a command needs less than one, and a busy machine takes its time
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    heavy = {"torch", "transformers", "gradio", "faiss"} & set(sys.modules)
    if heavy:
        print(f"imported: {sorted(heavy)}", file=sys.stderr)
"""
NO_MODEL = (
    "error: There is no model 'nosuch': it is neither embedded (mini, mini-itm) nor a folder with "
    "config.json; correct the name.\n"
)


def write_config(folder: Path, **config: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def published(folder: Path, kind: str) -> str:
    """A folder in Hugging Face's layout, of which nothing but the configuration is there."""
    return write_config(folder, model_type="blip-2", architectures=[kind])


def refusal(name: str, stage: int, quantize: str | None = None) -> str:
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        check_model(name, stage, said.append, quantize)
    assert said == []
    return str(caught.value)


def test_models_that_can_be_loaded_pass_without_a_word(tmp_path):
    said: list[str] = []
    check_model("mini", 2, said.append)
    check_model("mini-itm", 1, said.append)
    check_model(str(EMBEDDED / "mini-itm"), 1, said.append)
    check_model(
        published(tmp_path / "opt", "Blip2ForConditionalGeneration"), 2, said.append, "4bit"
    )
    (tmp_path / "stage1.pth").write_bytes(b"")  # torch reads it, or not
    check_model(str(tmp_path / "stage1.pth"), 1, said.append)
    assert said == []
    assert find_checkpoint("mini") == EMBEDDED / "mini"


def test_what_cannot_be_loaded_is_one_sentence(tmp_path):
    nothing = tmp_path / "nothing"
    assert refusal(str(nothing), 1).startswith(f"There is no model '{nothing}'")
    assert refusal("./nothing/here/at/all", 1).startswith("There is no model")
    assert refusal("gone.pth", 2) == "The file gone.pth does not exist; check the path."
    assert refusal("mini", 1).endswith("a retriever (stage 1) is needed here; try mini-itm.")
    other = published(tmp_path / "itm", "Blip2ForImageTextRetrieval")
    assert "a Blip2ForConditionalGeneration is needed here" in refusal(other, 2)
    own = write_config(tmp_path / "own", name="own", stage=1)
    assert refusal(own, 1) == f"No .safetensors file is in {own}; restore the checkpoint."
    (tmp_path / "own" / "model.safetensors").touch()
    check_model(own, 1, print)
    broken = write_config(tmp_path / "broken", stages=1)
    assert "Blip2Config has no setting stages" in refusal(broken, 1)
    alone = write_config(tmp_path / "alone", stage=2, grounding="nosuch")
    (tmp_path / "alone" / "model.safetensors").touch()
    assert refusal(alone, 2).startswith("There is no model 'nosuch'")
    assert refusal("mini", 2, "8bit").endswith(
        "8-bit and 4-bit would be slower; leave these options out."
    )


def test_small_language_models_are_those_registered():
    from blip2 import language_models

    assert language_models.LANGUAGE_MODELS.keys() >= set(SMALL_LANGUAGE_MODELS)
    with pytest.raises(CheckpointError, match="neither quantised nor spread"):
        check_model("mini", 2, print, "4bit")


def test_a_cached_model_of_the_hub_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("blip2.checkpoint_files.fetch_from_hub", lambda name: pytest.fail(name))
    repository = tmp_path / "models--someone--itm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    published(folder, "Blip2ForImageTextRetrieval")
    assert find_cached("someone/itm") is None  # a download that was broken off
    (folder / "model.safetensors").touch()
    assert find_cached("someone/itm") == folder
    check_model("someone/itm", 1, pytest.fail)
    assert "a Blip2ForConditionalGeneration is needed here" in refusal("someone/itm", 2)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    paint(folder / "photos" / "red.png", "red")
    for name in ("colours", "nosuch"):
        retriever = FakeRetriever(name)
        PhotoIndex.create(folder / name, retriever).add([folder / "photos"])
    return {
        "PHOTOS": str(folder / "photos"),
        "PHOTO": str(folder / "photos" / "red.png"),
        "INDEX": str(folder / "colours"),
        "LOST": str(folder / "nosuch"),  # an index whose model is gone
        "NONE": str(folder / "none"),
        "OPT": published(folder / "opt", "Blip2ForConditionalGeneration"),
    }


def run(places: dict[str, str], *arguments: str, **environment: str) -> tuple[int, str, float]:
    """Run a command: its status, what it said, and how long it took."""
    given = [places.get(argument, argument) for argument in arguments]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *given],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.replace(places["NONE"], "NONE") == ""
    return done.returncode, done.stderr, time.perf_counter() - start


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["app.py", "--port", "7999", "--model", "nosuch"], NO_MODEL),
        (["app.py", "--port", "7999", "--retriever", "nosuch"], NO_MODEL),
        (["blip2", "caption", "PHOTO", "--model", "nosuch"], NO_MODEL),
        (["blip2", "ask", "PHOTO", "What is it?", "--model", "nosuch"], NO_MODEL),
        (["index", "build", "PHOTOS", "--out", "NONE", "--retriever", "nosuch"], NO_MODEL),
        (["index", "add", "INDEX", "PHOTOS", "--retriever", "nosuch"], NO_MODEL),
        (["index", "search", "INDEX", "a dog", "--retriever", "nosuch"], NO_MODEL),
        (["index", "texts", "PHOTO", "a dog", "--retriever", "nosuch"], NO_MODEL),
        (
            ["blip2", "caption", "PHOTO", "--model", "gone.pth"],
            "error: The file gone.pth does not exist; check the path.\n",
        ),
        (
            ["index", "texts", "PHOTO", "a dog", "--retriever", "mini"],
            "error: mini is a generator (stage 2) and a retriever (stage 1) is needed here; "
            "try mini-itm.\n",
        ),
        (
            ["app.py", "--port", "7999", "--quantize", "8bit"],
            "error: smollm2-135m-instruct is neither quantised nor spread over devices, because it "
            "is small: 8-bit and 4-bit would be slower; leave these options out.\n",
        ),
        (
            ["index", "search", "INDEX", "a dog", "--k", "0"],
            "error: argument --k: '0' is not a whole number from 1; ask for at least 1 photo; see "
            "`python -m index search --help`\n",
        ),
        (
            ["index", "search", "INDEX", " \u200b"],
            "error: The search text is empty; write a few words.\n",
        ),
    ],
)
def test_commands_refuse_at_once(places, arguments, sentence):
    status, said, seconds = run(places, *arguments)
    assert (status, said) == (2, sentence)
    assert seconds < SOON
    assert not Path(places["NONE"]).exists()


def test_an_index_whose_model_is_gone_says_so_without_torch(places):
    status, said, seconds = run(places, "index", "search", "LOST", "a dog")
    assert status == 2 and said.startswith(NO_MODEL) and seconds < SOON
    assert said.removeprefix(NO_MODEL) in ("", "imported: ['faiss']\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "blip2", "caption", "PHOTO", "--model", "someone/nosuch"],
        ["-m", "index", "texts", "PHOTO", "a dog", "--retriever", "someone/nosuch"],
    ],
)
def test_what_is_looked_for_on_the_hub_is_said_first(places, tmp_path, arguments):
    """Without a network."""
    surroundings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    start = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, *(places.get(argument, argument) for argument in arguments)],
        cwd=ROOT,
        env={**os.environ, **surroundings},
        stderr=subprocess.PIPE,
        text=True,
    )
    with command.stderr as said:
        assert said.readline() == "Looking for someone/nosuch on the Hugging Face Hub ...\n"
        assert time.perf_counter() - start < SOON
        assert said.read() == (
            "error: The model someone/nosuch can't be loaded: the Hugging Face Hub can't be "
            "reached and it is not in the cache; try again later, name a folder, or use the "
            "embedded mini and mini-itm.\n"
        )
    assert command.wait() == 2


def test_to_shrink_a_model_takes_a_gpu_or_the_word_of_its_user(places):
    flags = ["app.py", "--port", "7999", "--model", "OPT", "--quantize", "4bit"]
    status, said, _ = run(places, *flags, CUDA_VISIBLE_DEVICES="")
    assert status == 2
    assert said.startswith("error: --quantize is for a GPU and there is none here; leave it out, ")
    assert "transformers" not in said and "gradio" not in said
