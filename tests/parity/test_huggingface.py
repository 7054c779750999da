"""The same weights give the same numbers as transformers' BLIP-2, both ways."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessorPil

from blip2 import Blip2, Blip2Retriever, UserError
from blip2.checkpoint_files import CheckpointError
from blip2.decoding import Decoding
from blip2.encoder_decoder import split_prefix
from blip2.huggingface import save_huggingface
from blip2.names import HUGGING_FACE, translations
from blip2.vision_transformers import ClipViT
from blip2.visual_prompt import VisualPrompt
from tests.parity.published import IMAGE, randomise, write

CLOSE = {"rtol": 0, "atol": 1e-5}
PROMPTS = ["a photo of", "Question : what is this ? Answer :"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tmp_path_factory.mktemp(kind) for kind in ("opt", "t5", "itm")}


@pytest.fixture(scope="module")
def theirs(folders):
    return {kind: write(kind, folder, seed) for seed, (kind, folder) in enumerate(folders.items())}


@pytest.fixture(scope="module")
def ours(folders, theirs):
    options = {"device": "cpu", "dtype": torch.float32}
    return {
        kind: (Blip2Retriever if kind == "itm" else Blip2).from_pretrained(str(folder), **options)
        for kind, folder in folders.items()
    }


@pytest.fixture(scope="module")
def photos():
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 255, (h, w, 3), dtype=np.uint8))
        for h, w in ((56, 56), (90, 70))
    ]


@pytest.fixture(scope="module")
def pixels(ours, photos):
    return torch.stack([ours["opt"].encoder.transform(photo) for photo in photos])


def test_pixels_are_those_of_their_processor(photos, pixels):
    processor = BlipImageProcessorPil(
        size={"height": 56, "width": 56},
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    )
    reference = processor(photos, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, reference, rtol=0, atol=1e-5)


def their_queries(model, pixels):
    with torch.no_grad():
        features = model.vision_model(pixels).last_hidden_state
        return model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=features,
        ).last_hidden_state


@pytest.mark.parametrize("kind", ["opt", "t5", "itm"])
def test_query_outputs(kind, ours, theirs, pixels):
    own = ours[kind].model if kind == "itm" else ours[kind].prompt
    with torch.no_grad():
        states = own.qformer.image_states(own.image_reader(ours[kind].encoder(pixels)))
        queries = own.qformer.encode_image(states).queries
    reference = their_queries(theirs[kind], pixels)
    assert reference.std() > 0.1  # weights that tell
    torch.testing.assert_close(queries, reference, **CLOSE)


@pytest.mark.parametrize("size", [28, 84])
def test_another_resolution_interpolates_the_positions(size, folders, theirs, photos):
    model = Blip2.from_pretrained(
        str(folders["opt"]), device="cpu", dtype=torch.float32, image_size=size
    )
    assert model.encoder.num_tokens == (size // 14) ** 2 + 1
    pixels = torch.stack([model.encoder.transform(photo) for photo in photos])
    assert pixels.shape[-1] == size
    with torch.no_grad():
        reference = theirs["opt"].vision_model(pixels, interpolate_pos_encoding=True)
        own = model.prompt.image_reader(model.encoder(pixels))
    torch.testing.assert_close(own, reference.last_hidden_state, **CLOSE)
    with pytest.raises(UserError, match="85 is no multiple of the patch, 14 pixels; choose 84"):
        Blip2.from_pretrained(str(folders["opt"]), device="cpu", image_size=85)


def test_clip_style(ours, photos):
    """CLIP's ViT before its last layer, through transformers' Q-Former, against ours."""
    from transformers import (
        Blip2QFormerConfig,
        Blip2QFormerModel,
        CLIPVisionConfig,
        CLIPVisionModel,
    )

    config = CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        image_size=56, patch_size=14,
    )  # fmt: skip
    clip = CLIPVisionModel(config).eval()
    randomise(clip, 7)
    theirs = Blip2QFormerModel(Blip2QFormerConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        encoder_hidden_size=48,
    )).eval()  # fmt: skip
    randomise(theirs, 8)
    prompt = ours["opt"].prompt  # of the same sizes; its Q-Former is overwritten here
    own = VisualPrompt(prompt.config).eval()
    randomise(own, 9)
    names = translations(own.state_dict(), HUGGING_FACE)
    state = own.state_dict()
    for name, value in theirs.state_dict().items():
        state[names[f"qformer.{name}"]].copy_(value)
    pixels = torch.stack([ours["opt"].encoder.transform(photo) for photo in photos])
    with torch.no_grad():
        features = clip(pixels, output_hidden_states=True).hidden_states[-2]
        norm = torch.nn.functional.layer_norm(
            features, (48,), own.image_reader.norm.weight, own.image_reader.norm.bias, 1e-6
        )
        reference = theirs(
            query_embeds=own.qformer.query_tokens.expand(2, -1, -1), encoder_hidden_states=norm
        ).last_hidden_state
        encoder = ClipViT(clip).freeze()
        torch.testing.assert_close(encoder(pixels), features, **CLOSE)
        assert encoder.num_tokens == 17
        states = own.qformer.image_states(own.image_reader(encoder(pixels)))
        queries = own.qformer.encode_image(states).queries
    torch.testing.assert_close(queries, reference, **CLOSE)


def their_inputs(model, language, prompts):
    """What their `forward` wants: placeholders, then the words, padded on the left."""
    rows = [[IMAGE] * 6 + language.token_ids(language.prompt(prompt)) for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[1] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_language_model_logits(kind, ours, theirs, photos, pixels):
    language = ours[kind].language
    model = theirs[kind]
    inputs = their_inputs(model, language, PROMPTS)
    decoder = {} if kind == "opt" else {"decoder_input_ids": torch.tensor([[0, 5, 9]] * 2)}
    with torch.no_grad():
        reference = model(pixel_values=pixels, **inputs, **decoder).logits
        own = language.inputs(
            ours[kind].visual_prompt(photos), [language.prompt(p) for p in PROMPTS]
        )
        logits = language.model(**own, **decoder).logits
    if kind == "opt":  # positions before the first word are padding
        reference, logits = (part[inputs["attention_mask"].bool()] for part in (reference, logits))
    assert reference.std() > 0.1
    torch.testing.assert_close(logits, reference, **CLOSE)


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("beams", [1, 5])
def test_tokens(kind, beams, ours, theirs, photos, pixels):
    """20 tokens, greedy and with 5 beams, photo by photo and as a batch of unequal prompts."""
    language, model = ours[kind].language, theirs[kind]
    end = language.end_token_id
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "num_beams": beams}
    reference = []
    for photo, prompt in zip(pixels, PROMPTS, strict=True):
        inputs = their_inputs(model, language, [prompt])
        ids = model.generate(
            photo[None], **inputs, **options, eos_token_id=end, pad_token_id=end, do_sample=False
        )
        if kind == "opt":  # theirs repeats the prompt
            ids = ids[:, inputs["input_ids"].shape[1] :]
        assert ids.shape[1] >= 20
        reference.append(language.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
    assert all(len(text.split()) >= 10 for text in reference)
    assert ours[kind].generate(photos, PROMPTS, **options) == reference
    single = [
        ours[kind].generate(photo, prompt, **options)
        for photo, prompt in zip(photos, PROMPTS, strict=True)
    ]
    assert single == reference


def test_embeddings_and_matches(ours, theirs, photos, pixels):
    texts = ["a photo of the dog", "cat sits in the snow on the red grass"]
    retriever, model = ours["itm"], theirs["itm"]
    ids, mask = retriever.tokenizer(texts)
    with torch.no_grad():
        reference = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        matched = model(
            pixel_values=pixels,
            input_ids=ids,
            attention_mask=mask,
            use_image_text_matching_head=True,
        ).logits_per_image
    image, text = retriever.embed_images(photos), retriever.embed_texts(texts)
    torch.testing.assert_close(image, reference.image_embeds, **CLOSE)
    torch.testing.assert_close(text, reference.text_embeds, **CLOSE)
    with torch.no_grad():
        states = retriever.image_states(pixels)
        logits = retriever.model.match_logits(states, ids, mask)
    torch.testing.assert_close(logits, matched, **CLOSE)
    torch.testing.assert_close(
        retriever.match(photos, texts), matched.softmax(-1)[:, 1], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["opt", "t5", "itm"])
def test_the_way_back(kind, ours, theirs, photos, tmp_path):
    own = ours[kind]
    before = None if kind == "itm" else own.generate(photos, PROMPTS, max_new_tokens=9)
    if kind == "itm":
        save_huggingface(tmp_path, own.model.config, own.model, own.encoder)
    else:
        save_huggingface(tmp_path, own.prompt.config, own.prompt, own.encoder, own.language)
        assert own.generate(photos, PROMPTS, max_new_tokens=9) == before  # saving changes nothing
        assert own.language.model.config._attn_implementation == "sdpa"
    again, report = type(theirs[kind]).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    after = again.state_dict()
    assert set(after) == set(theirs[kind].state_dict())
    for name, value in theirs[kind].state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "name", "change", "said"),
    [
        ("opt", "language_projection.bias", None, "language_projection.bias is missing"),
        ("opt", "language_model.model.decoder.layers.1.fc1.bias", None,
         "language_model.model.decoder.layers.1.fc1.bias is missing"),
        ("opt", "vision_model.encoder.layers.2.mlp.fc1.bias", None,
         "vision_model.encoder.layers.2.mlp.fc1.bias is missing"),
        ("t5", "query_tokens", torch.zeros(1, 5, 32),
         "query_tokens has shape [1, 5, 32] instead of [1, 6, 32]"),
        ("itm", "itm_head.extra", torch.zeros(1), "itm_head.extra is unknown"),
        ("itm", "vision_model.surplus", torch.zeros(1), "vision_model.surplus is unknown"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_named_key_by_key(
    kind, name, change, said, folders, theirs, tmp_path
):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folders[kind], tmp_path / "bad")
    file = tmp_path / "bad" / "model.safetensors"
    state = load_file(file)
    state.pop(name, None)
    if change is not None:
        state[name] = change
    save_file(state, file, metadata={"format": "pt"})
    kind_of = Blip2Retriever if kind == "itm" else Blip2
    with pytest.raises(CheckpointError) as caught:
        kind_of.from_pretrained(str(tmp_path / "bad"), device="cpu", dtype=torch.float32)
    assert said in str(caught.value)


def test_the_other_kind_is_refused(folders, theirs):
    with pytest.raises(CheckpointError, match="a Blip2ForConditionalGeneration is needed here"):
        Blip2.from_pretrained(str(folders["itm"]), device="cpu")


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_candidates_are_the_best_beams_with_their_scores(kind, ours, photos):
    model = ours[kind]
    beams = {"num_beams": 4, "max_new_tokens": 8}
    found = model.candidates(photos[0], PROMPTS[0], 3, **beams)
    assert len({text for text, _ in found}) == 3
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)
    assert found[0][0] == model.generate(photos[0], PROMPTS[0], **beams)
    drawn = {"do_sample": True, "top_p": 1.0, "seed": 3, "max_new_tokens": 8}
    samples = model.candidates(photos[0], PROMPTS[0], 4, **drawn)
    assert samples == model.candidates(photos[0], PROMPTS[0], 4, **drawn) and len(samples) == 4
    compared = 0
    for text, score in samples:  # against the loss of the same words, where nothing is lost
        ids = model.language.token_ids(text)
        if len(ids) == 8:
            compared += 1
            visual = model.visual_prompt(photos[:1])
            own = model.language.inputs(visual, [model.language.prompt(PROMPTS[0])])
            with torch.no_grad():
                if kind == "opt":
                    words = model.language.embed(ids)[None]
                    joint = torch.cat([own["inputs_embeds"], words], 1)
                    logits = model.language.model(inputs_embeds=joint).logits[0, -9:-1]
                else:
                    read = torch.tensor([[0, *ids[:-1]]])
                    logits = model.language.model(**own, decoder_input_ids=read).logits[0]
            each = logits.log_softmax(-1)[range(8), ids]
            assert score == pytest.approx(float(each.mean()), abs=1e-4)
    assert compared
    with pytest.raises(UserError, match="3 candidates need as many beams"):
        model.candidates(photos[0], "", 3)


def test_a_caption_is_split_from_its_first_word_to_its_middle():
    caption = "a dog runs on the grass"
    parts = {split_prefix(caption, random.Random(seed)) for seed in range(50)}
    assert parts == {
        ("a", "dog runs on the grass"), ("a dog", "runs on the grass"),
        ("a dog runs", "on the grass"),
    }  # fmt: skip
    assert split_prefix("dog", random.Random(0)) == ("", "dog")
    assert split_prefix("a dog", random.Random(0)) == ("a", "dog")


def test_a_conversation_is_put_as_published(ours):
    turns = [("Question: what is this? Answer:", "a dog")]
    language = ours["opt"].language
    assert language.question("what is it?") == "Question: what is it? Answer:"
    assert language.prompt(language.question("is it red?"), turns) == (
        "</s>Question: what is this? Answer: a dog Question: is it red? Answer:"
    )
    assert ours["t5"].language.prompt("a photo of") == "a photo of</s>"
    assert Decoding().num_beams == 1


def test_a_t5_head_of_its_own(tmp_path):
    """FlanT5's head is not its word embeddings; transformers ties them unless a file has both."""
    from safetensors.torch import load_file, save_file
    from transformers import Blip2ForConditionalGeneration

    write("t5", tmp_path, 1)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    words = tensors["language_model.shared.weight"]
    head = torch.randn(words.shape, generator=torch.Generator().manual_seed(2))
    save_file(tensors | {"language_model.lm_head.weight": head}, file, metadata={"format": "pt"})
    ours = Blip2.from_pretrained(str(tmp_path), device="cpu", dtype=torch.float32)
    theirs = Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    for model in (ours.language.model, theirs.language_model):
        torch.testing.assert_close(model.lm_head.weight, head, rtol=0, atol=0)
        torch.testing.assert_close(model.shared.weight, words, rtol=0, atol=0)
        torch.testing.assert_close(model.encoder.embed_tokens.weight, words, rtol=0, atol=0)
    ours.save_pretrained(tmp_path / "back", layout="huggingface")
    (file,) = (tmp_path / "back").glob("*.safetensors")
    back = load_file(file)
    torch.testing.assert_close(back["language_model.lm_head.weight"], head, rtol=0, atol=0)
    torch.testing.assert_close(back["language_model.shared.weight"], words, rtol=0, atol=0)
