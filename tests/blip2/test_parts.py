"""A new BLIP-2 from one's own parts: it starts as promised, trains, and is read back."""

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from blip2 import Blip2, Blip2Retriever, UserError
from blip2.vision import IMAGE_ENCODERS
from blip2.visual_prompt import Stage2
from tests.parity.published import configuration, randomise, tokenizer
from tests.tiny import Cells, told

PHOTOS = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]


@pytest.fixture(scope="module", autouse=True)
def cells():
    IMAGE_ENCODERS["cells"] = Cells
    yield
    del IMAGE_ENCODERS["cells"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A BERT, an OPT and a T5, as transformers writes them."""
    from transformers import OPTForCausalLM, T5ForConditionalGeneration

    made = {name: tmp_path_factory.mktemp(name) for name in ("bert", "opt", "t5")}
    words = tokenizer("itm")
    bert = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(bert).save_pretrained(made["bert"])
    words.save_pretrained(made["bert"])
    for kind, cls in (("opt", OPTForCausalLM), ("t5", T5ForConditionalGeneration)):
        model = cls(configuration(kind).text_config)
        randomise(model, 1)
        model.save_pretrained(made[kind])
        tokenizer(kind).save_pretrained(made[kind])
    return {name: str(folder) for name, folder in made.items()}


def test_the_q_former_starts_as_the_bert(folders):
    retriever = Blip2Retriever.from_parts(
        "cells", bert=folders["bert"], num_queries=5, device="cpu"
    )
    own = retriever.model.qformer
    bert = BertModel.from_pretrained(folders["bert"]).state_dict()
    for number, layer in enumerate(own.layers):
        theirs = bert[f"encoder.layer.{number}.intermediate.dense.weight"]
        for branch in (layer.query_ffn, layer.text_ffn):
            torch.testing.assert_close(branch.inner.weight, theirs, rtol=0, atol=0)
    crossing = [layer.cross_attention for layer in own.layers if layer.cross_attention]
    assert len(crossing) == 2 and crossing[0].key.weight.shape == (32, 24)
    assert 0.015 < float(crossing[0].key.weight.std()) < 0.025
    assert retriever.embed_images(PHOTOS).shape == (2, 5, 256)


# A random decoder hardly listens to its encoder, so that less can be learned there.
@pytest.mark.parametrize(("kind", "share"), [("opt", 0.7), ("t5", 0.96)])
def test_stage_2_learns_and_is_read_back(kind, share, folders, tmp_path):
    options = {"device": "cpu", "dtype": torch.float32}
    model = Blip2.from_parts("cells", folders[kind], bert=folders["bert"], num_queries=5, **options)
    assert all(not p.requires_grad for p in model.language.parameters())
    stage = Stage2(model.prompt, model.language)
    features = torch.stack([model.encoder(model.encoder.transform(p)[None])[0] for p in PHOTOS])
    asked, said = ["a photo of"] * 2, ["red dog", "blue cat on the snow"]
    optimizer = torch.optim.AdamW(model.prompt.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = stage(features, told(asked, said))["lm"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < share * losses[0]
    model.prompt.eval()
    model.save_pretrained(tmp_path / "own")
    again = Blip2.from_pretrained(str(tmp_path / "own"), **options)
    for name, value in model.prompt.state_dict().items():
        torch.testing.assert_close(again.prompt.state_dict()[name], value.half().float())
    assert again.prompt.config.language_model == folders[kind]
    assert again.generate(PHOTOS, "", max_new_tokens=5) == again.generate(
        PHOTOS, "a photo of", max_new_tokens=5
    )


def test_the_loss_of_an_encoder_decoder_against_a_plain_one(folders):
    """The reference runs pair by pair, without padding, and averages over answer tokens."""
    model = Blip2.from_parts(
        "cells", folders["t5"], bert=folders["bert"], device="cpu", dtype=torch.float32
    )
    language, visual = model.language, model.visual_prompt(PHOTOS)
    asked, said = ["a photo of", "what is this ?"], ["red dog", "blue cat on the snow"]
    total, count = 0.0, 0
    with torch.no_grad():
        loss = float(language.loss(visual, asked, said))
        words = language.model.get_input_embeddings()
        for photo, prompt, answer in zip(visual, asked, said, strict=True):
            ids = [*language.tokenizer.encode(prompt, add_special_tokens=False), 1]
            target = [*language.tokenizer.encode(answer, add_special_tokens=False), 1]
            read = torch.cat([photo, words(torch.tensor(ids))])[None]
            written = torch.tensor([[0, *target[:-1]]])
            logits = language.model(inputs_embeds=read, decoder_input_ids=written).logits[0]
            scores = logits.log_softmax(-1)
            total -= float(sum(scores[i, token] for i, token in enumerate(target)))
            count += len(target)
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_parts_that_are_not_there(folders, tmp_path):
    with pytest.raises(UserError, match="There is no image encoder 'lens'"):
        Blip2.from_parts("lens", folders["opt"], device="cpu")
    with pytest.raises(UserError, match="can't be loaded"):
        Blip2.from_parts("cells", str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is no folder of a BERT"):
        Blip2Retriever.from_parts("cells", bert=str(tmp_path), device="cpu")


def test_features_of_photos_texts_and_pairs(folders):
    retriever = Blip2Retriever.from_parts(
        "cells", bert=folders["bert"], num_queries=5, device="cpu"
    )
    texts = ["a photo of the dog", "snow"]
    both = retriever.extract_features(PHOTOS, texts)
    shapes = {name: tuple(value.shape) for name, value in both.items()}
    assert shapes == {
        "image_features": (2, 9, 24), "query_states": (2, 5, 32), "image_embeds": (2, 5, 256),
        "text_states": (2, 7, 32), "text_mask": (2, 7), "text_embeds": (2, 256),
        "pair_states": (2, 5, 32), "match": (2,),
    }  # fmt: skip
    torch.testing.assert_close(both["image_embeds"], retriever.embed_images(PHOTOS))
    torch.testing.assert_close(both["text_embeds"], retriever.embed_texts(texts))
    torch.testing.assert_close(both["match"], retriever.match(PHOTOS, texts))
    alone = retriever.extract_features(PHOTOS)
    assert set(alone) == {"image_features", "query_states", "image_embeds"}
    torch.testing.assert_close(alone["query_states"], both["query_states"])
    # Queries that have read a text differ from those that have not.
    assert (both["pair_states"] - both["query_states"]).abs().max() > 0.01
    for arguments, said in (((), "Features of what"), ((PHOTOS, ["a"]), "2 photos and 1 texts")):
        with pytest.raises(UserError, match=said):
            retriever.extract_features(*arguments)
