"""The weights of models are averaged, and what is no weight comes from the first."""

import json
import resource
import signal
from dataclasses import replace

import pytest
import torch

from blip2 import Blip2Retriever
from blip2.checkpoints import read_tensors, save_checkpoint, write_tensors
from blip2.config import Blip2Config
from blip2.representation import Representation
from blip2.visual_prompt import VisualPrompt
from tests.tiny import STAGE1, STAGE2, text_tokenizer
from train import average

CONFIG = replace(STAGE1, match_temperature=2.0)


@pytest.fixture
def folders(tmp_path):
    for number, name in enumerate(("one", "two", "three")):
        torch.manual_seed(number)
        config = replace(
            CONFIG, name=name, match_temperature=2.0 + number, presence_threshold=0.1 + 0.1 * number
        )
        save_checkpoint(Representation(config), config, tmp_path / name)
        text_tokenizer().save(str(tmp_path / name / "tokenizer.json"))
    return [str(tmp_path / name) for name in ("one", "two", "three")]


def test_the_mean_by_weight(folders, tmp_path, capsys):
    out = tmp_path / "made" / "soup"
    assert average.main([*folders, "--weights", "2,1,1", "--out", str(out)]) == 0
    assert "the average of 3 models is in" in capsys.readouterr().out
    one, two, three = (read_tensors(folder) for folder in folders)
    found = read_tensors(out)
    assert set(found) == set(one)
    for name, value in found.items():
        mean = (2 * one[name].float() + two[name].float() + three[name].float()) / 4
        torch.testing.assert_close(value.float(), mean, rtol=1e-3, atol=1e-4)
        assert value.dtype == torch.float16
    config = Blip2Config.read(out / "config.json")
    assert (config.name, config.match_temperature, config.presence_threshold) == ("one", 2.0, 0.1)
    retriever = Blip2Retriever.from_pretrained(str(out), device="cpu")
    assert retriever.embed_texts(["a dog"]).shape == (1, 16)


def test_equal_weights_by_default(folders, tmp_path):
    assert average.main([*folders[:2], "--out", str(tmp_path / "soup")]) == 0
    one, two, found = (read_tensors(f) for f in (*folders[:2], tmp_path / "soup"))
    for name, value in found.items():
        mean = (one[name].float() + two[name].float()) / 2
        torch.testing.assert_close(value.float(), mean, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_averaged(folders, tmp_path, capsys):
    out = ["--out", str(tmp_path / "soup")]
    save_checkpoint(VisualPrompt(STAGE2), STAGE2, tmp_path / "other")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "blip-2"}')
    cut = read_tensors(folders[0])
    cut["itm_head.weight"] = cut["itm_head.weight"][:1].clone()
    write_tensors(cut, CONFIG, tmp_path / "cut")
    for argv, said in (
        ([folders[0], str(tmp_path / "other"), *out], "is not made like"),
        ([*folders, "--weights", "1,1", *out], "3 models need as many finite weights"),
        ([*folders, "--weights", "0,0,0", *out], "not all 0"),
        ([*folders[:2], "--weights", "2,-1", *out], "at least 0"),
        ([*folders[:2], "--weights", "nan,1", *out], "finite weights"),
        ([*folders[:2], "--weights", "1e400,1", *out], "finite weights"),
        ([folders[0], *out], "two models or more"),
        ([*folders[:2], str(tmp_path / "hub"), *out], "is in Hugging Face's layout"),
        ([folders[0], str(tmp_path / "cut"), *out], "is not made like"),
        ([*folders[:2], "--out", folders[2]], "There is a model in"),
        ([folders[0], "nowhere", *out], "There is no model 'nowhere'"),
        ([*folders[:2], "--out", f"{folders[0]}/config.json"], "Cannot write to"),
    ):
        assert average.main(argv) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1 and said in errors[0], errors
    with pytest.raises(SystemExit):
        average.main([*folders[:2], "--weights", "3:1", *out])
    assert "3:1 is not numbers with commas between" in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()
    assert json.loads((tmp_path / "three" / "config.json").read_text())["name"] == "three"


def test_a_disk_that_is_full(folders, tmp_path, capsys):
    """safetensors says it in an error of its own, which is none of the system's."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert average.main([*folders, "--out", str(tmp_path / "soup")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "make room" in capsys.readouterr().err
