"""Loading that fits the machine: precision, quantisation, shards, memory, the app."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image

from blip2 import Blip2, Blip2Retriever, UserError, checkpoint_files
from tests.parity.published import write


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("opt", "t5", "itm")}
    for kind, folder in made.items():
        write(kind, folder, max_shard_size="60KB")
    return made


def test_shards_are_many_and_one_that_is_missing_is_named(folders, tmp_path):
    import shutil

    assert len(list(folders["opt"].glob("model-*.safetensors"))) > 3
    shutil.copytree(folders["opt"], tmp_path / "part")
    gone = sorted((tmp_path / "part").glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name} is missing or damaged"):
        Blip2.from_pretrained(str(tmp_path / "part"), device="cpu")
    gone.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=f"{gone.name} is missing or damaged"):
        Blip2.from_pretrained(str(tmp_path / "part"), device="cpu")


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_the_language_model_alone_is_quantised(kind, quantize, folders):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    model = Blip2.from_pretrained(str(folders[kind]), device="cpu", quantize=quantize)
    wanted = Linear8bitLt if quantize == "8bit" else Linear4bit
    layers = [m for m in model.language.modules() if isinstance(m, wanted)]
    assert len(layers) >= 10
    others = [*model.prompt.modules(), *model.encoder.modules()]
    assert not any(isinstance(m, Linear8bitLt | Linear4bit) for m in others)
    assert next(model.prompt.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "computed"),
    [(torch.float32, torch.float32), (torch.float16, torch.float32), (torch.bfloat16,) * 2],
)
def test_the_precision_that_is_asked_for(asked, computed, folders):
    """The frozen parts take it; the Q-Former takes bf16 and stays out of fp16."""
    options = {"device": "cpu", "dtype": asked}
    model = Blip2.from_pretrained(str(folders["opt"]), **options)
    retriever = Blip2Retriever.from_pretrained(str(folders["itm"]), **options)
    for part, dtype in (
        (model.encoder, asked), (model.language, asked), (model.prompt, computed),
        (retriever.encoder, asked), (retriever.model, computed),
    ):  # fmt: skip
        assert {value.dtype for value in part.parameters()} == {dtype}
    photos, texts = [Image.new("RGB", (60, 40), c) for c in ("teal", "tan")], ["a dog", "snow"]
    assert model.generate(photos, "a photo of", max_new_tokens=3, min_new_tokens=3)[1]
    exact = Blip2Retriever.from_pretrained(
        str(folders["itm"]), device="cpu", dtype=torch.float32
    ).extract_features(photos, texts)
    found = retriever.extract_features(photos, texts)
    for name in ("image_embeds", "text_embeds"):
        assert found[name].dtype == torch.float32
        cosines = (found[name] * exact[name]).sum(-1)
        assert cosines.min() > 0.999
    torch.testing.assert_close(found["match"], exact["match"], rtol=0, atol=0.03)
    torch.testing.assert_close(retriever.match(photos, texts), exact["match"], rtol=0, atol=0.03)


def test_options_that_make_no_sense(folders):
    with pytest.raises(UserError, match="no quantisation '3bit'; choose 8bit or 4bit"):
        Blip2.from_pretrained(str(folders["opt"]), device="cpu", quantize="3bit")
    with pytest.raises(UserError, match="no device map 'sequential'; choose auto"):
        Blip2.from_pretrained(str(folders["opt"]), device="cpu", device_map="sequential")
    with pytest.raises(UserError, match="neither quantised nor spread"):
        Blip2.from_pretrained("mini", device="cpu", quantize="8bit")


def test_spread_by_accelerate_says_the_same(folders):
    photo = Image.new("RGB", (60, 40), "teal")
    options = {"device": "cpu", "dtype": torch.float32}
    plain = Blip2.from_pretrained(str(folders["opt"]), **options)
    spread = Blip2.from_pretrained(str(folders["opt"]), device_map="auto", **options)
    asked = {"max_new_tokens": 12, "min_new_tokens": 12}
    assert spread.caption(photo, **asked) == plain.caption(photo, **asked) != ""


def test_the_app_loads_published_models(folders):
    from demo.models import load_models

    said = []
    models = load_models(str(folders["opt"]), str(folders["itm"]), "cpu", "8bit", said.append)
    assert isinstance(models.retriever, Blip2Retriever)
    names = f"{folders['opt'].name} and {folders['itm'].name}"
    assert models.describe() == f"{names} on the processor (no GPU)"
    assert len(said) == 4


def test_a_model_that_the_hub_does_not_give(tmp_path):
    """In a process of its own, because the Hub's address is read at import."""
    script = textwrap.dedent("""
        from blip2 import Blip2, UserError
        try:
            Blip2.from_pretrained("Salesforce/blip2-opt-2.7b")
        except UserError as error:
            print(error)
    """)
    surroundings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": "/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True
    )
    assert done.stdout == (
        "The model Salesforce/blip2-opt-2.7b can't be loaded: the Hugging Face Hub can't be "
        "reached and it is not in the cache; try again later, name a folder, or use the embedded "
        "mini and mini-itm.\n"
    ), done.stderr


def test_a_large_file_is_told_by_parts_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "WHOLE", 2**20)
    monkeypatch.setattr(checkpoint_files, "PART", 8192)
    content = bytearray(2 * 2**20)
    file = tmp_path / "model.safetensors"
    seen = set()
    for change in (None, 0, 2**20, 2 * 2**20 - 1):
        if change is not None:
            content[change] ^= 1
        file.write_bytes(content)
        seen.add(checkpoint_files.fingerprint(tmp_path))
    file.write_bytes(content + b"1")
    seen.add(checkpoint_files.fingerprint(tmp_path))
    assert len(seen) == 5
    assert checkpoint_files.fingerprint(tmp_path) in seen


def test_a_gigabyte_in_shards_takes_no_second_copy(tmp_path):
    """Peak memory of loading, above what the imports take, against the size of the weights."""
    script = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        import torch
        from transformers import Blip2ForConditionalGeneration
        from tests.parity.published import configuration, tokenizer

        folder = Path(sys.argv[1])
        config = configuration("opt")
        text = config.text_config
        text.hidden_size = text.word_embed_proj_dim = 1024
        text.ffn_dim, text.num_hidden_layers, text.num_attention_heads = 4096, 20, 16
        with torch.device("meta"):
            model = Blip2ForConditionalGeneration(config)
        model = model.to_empty(device="cpu").float()
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(0.01)
        model.save_pretrained(folder, max_shard_size="100MB")
        tokenizer("opt").save_pretrained(folder)
    """)
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=".")
    weights = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert weights > 1e9 and len(list(tmp_path.glob("*.safetensors"))) > 8
    script = textwrap.dedent("""
        import json, sys
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, OPTForCausalLM
        from transformers import Blip2VisionModel
        from blip2 import Blip2

        def kilobytes(name):
            lines = open("/proc/self/status").read().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith(name)))

        before = kilobytes("VmRSS")
        model = Blip2.from_pretrained(sys.argv[1], device="cpu", dtype=torch.float32)
        total = sum(float(p.sum()) for p in model.language.parameters())  # touch all of it
        print(json.dumps({"peak": (kilobytes("VmHWM") - before) * 1024, "total": total}))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["total"] > 1e6
    assert found["peak"] < 1.15 * weights, found["peak"] / weights
