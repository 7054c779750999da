"""The same weights give the same numbers as transformers' BLIP-2, both ways."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessorPil

from blip2 import Blip2, Blip2Retriever
from blip2.checkpoints import CheckpointError
from blip2.huggingface import save_huggingface
from blip2.language import Decoding
from tests.parity.published import IMAGE, write

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
def test_the_way_back(kind, ours, theirs, pixels, tmp_path):
    own = ours[kind]
    if kind == "itm":
        save_huggingface(tmp_path, own.model.config, own.model, own.encoder)
    else:
        save_huggingface(tmp_path, own.prompt.config, own.prompt, own.encoder, own.language)
    again, report = type(theirs[kind]).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    before = theirs[kind].state_dict()
    after = again.state_dict()
    assert set(after) == set(before)
    for name, value in before.items():
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


def test_a_conversation_is_put_as_published(ours):
    turns = [("Question: what is this? Answer:", "a dog")]
    language = ours["opt"].language
    assert language.question("what is it?") == "Question: what is it? Answer:"
    assert language.prompt(language.question("is it red?"), turns) == (
        "</s>Question: what is this? Answer: a dog Question: is it red? Answer:"
    )
    assert ours["t5"].language.prompt("a photo of") == "a photo of</s>"
    assert Decoding().num_beams == 1
