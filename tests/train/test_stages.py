"""Both stages from the command line on a few painted photos, up to a model that loads."""

import io
import json
import random
import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
from PIL import Image

from blip2 import Blip2, Blip2Retriever
from blip2.checkpoint_files import EMBEDDED
from blip2.checkpoints import read_tensors
from blip2.config import PRESETS, Blip2Config
from blip2.decoding import Decoding
from blip2.errors import UserError
from blip2.language import LANGUAGE_MODELS
from blip2.representation import Representation
from blip2.vision import IMAGE_ENCODERS
from blip2.visual_prompt import VisualPrompt
from tests.tiny import QFORMER, STAGE1, STAGE2, Cells, language_model, text_tokenizer
from train import evaluate, inputs, make_qa, stage1, stage2
from train.config import Recipe, model_config, pretraining_config, read_recipe
from train.data import Batch, CaptionedPhotos

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
THINGS = {"dog": 0, "cat": 85, "ball": 170, "bike": 255}  # a shade of grey each
PHOTOS = [(colour, thing) for colour in COLOURS for thing in THINGS]
STEPS = ["batch_size=6", "learning_rate=3e-3", "fresh_learning_rate=3e-3", "warmup_steps=5",
         "precision=no", "save_every=50", "validate_every=100", "views=1"]  # fmt: skip


def painted(colour: str, thing: str) -> Image.Image:
    """A field of the colour with the thing's grey in its lower half."""
    photo = Image.new("RGB", (32, 32), COLOURS[colour])
    photo.paste((THINGS[thing],) * 3, (0, 16, 32, 32))
    return photo


@pytest.fixture(scope="module", autouse=True)
def tiny_parts():
    """Register tiny frozen parts and presets, as a user with parts of their own does."""
    IMAGE_ENCODERS["cells"] = Cells
    LANGUAGE_MODELS["tiny"] = language_model
    parts = {"image_encoder": "cells"}
    PRESETS["tiny-itm"] = type(STAGE1)(**{**vars(STAGE1), **parts})
    PRESETS["tiny"] = type(STAGE2)(**{**vars(STAGE2), **parts, "language_model": "tiny"})
    yield
    for registry, name in ((IMAGE_ENCODERS, "cells"), (LANGUAGE_MODELS, "tiny"),
                           (PRESETS, "tiny-itm"), (PRESETS, "tiny")):  # fmt: skip
        del registry[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shard of 12 photos, a BERT and the recipes of both stages."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("stages")
    for shard in ("photos", "dev"):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number, (colour, thing) in enumerate(PHOTOS):
                file = io.BytesIO()
                painted(colour, thing).save(file, "PNG")
                captions = [f"a {colour} {thing}", f"{colour} {thing} ."]
                name = f"{shard[0]}{number}"
                text = {"image_id": name, "captions": captions}
                for suffix, data in (("png", file.getvalue()), ("json", json.dumps(text).encode())):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=QFORMER.vocab_size - 1,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    BertModel(bert).save_pretrained(folder / "bert")
    text_tokenizer().save(str(folder / "bert" / "tokenizer.json"))
    for preset in ("tiny-itm", "tiny"):
        (folder / f"{preset}.yaml").write_text(f"preset: {preset}\ndata: {folder}/photos.tar\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """Run both commands as a user would."""
    common = [*STEPS, f"cache={folder}/cache", f"dev_data={folder}/dev.tar"]
    first = [str(folder / "tiny-itm.yaml"), f"start={folder}/bert", f"output={folder}/one"]
    assert stage1.main([*first, "epochs=300", *common]) == 0
    more = [first[0], f"start={folder}/one/model", f"output={folder}/more", "token_keep=0.6"]
    assert stage1.main([*more, "epochs=2", *common]) == 0
    second = [str(folder / "tiny.yaml"), f"start={folder}/one/model", f"output={folder}/two"]
    assert (
        stage2.main(
            [*second, "epochs=4", "match_scale=true", "prompts=[describe this photo]", *common]
        )
        == 0
    )
    return folder


def test_stage_1_learns_what_the_captions_say(trained):
    retriever = Blip2Retriever.from_pretrained(str(trained / "one" / "model"), device="cpu")
    photos = [painted(*photo) for photo in PHOTOS]
    texts = [f"a {colour} {thing}" for colour, thing in PHOTOS]
    image = retriever.embed_images(photos, batch_size=5)  # [12, Q, d]
    text = retriever.embed_texts(texts, batch_size=5)  # [12, d]
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(12, 4))
    best = torch.einsum("iqd,td->itq", image, text).amax(-1).argmax(1)
    assert (best == torch.arange(12)).float().mean() > 0.8  # a twelfth by chance
    right = retriever.match(photos, texts, batch_size=5)
    wrong = retriever.match(photos, texts[1:] + texts[:1], batch_size=5)
    assert (right > wrong).float().mean() > 0.9
    assert right.mean() > 2 * wrong.mean()
    assert retriever.embed_images([]).shape == (0, 4, 16)


def test_stage_1_goes_on_from_a_checkpoint(trained):
    """Every tensor is the checkpoint's, word pieces come from it, and training leaves it better."""
    torch.manual_seed(7)
    model = Representation(PRESETS["tiny-itm"])
    folder, fresh = stage1.start_model(model, str(trained / "one" / "model"))
    assert folder == trained / "one" / "model" and (folder / "tokenizer.json").is_file()
    assert "cross_attention" in fresh
    saved = read_tensors(folder)
    assert set(saved) == set(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name].float(), rtol=0, atol=0)


def test_parts_of_ones_own_go_through_both_stages(folder, tmp_path):
    """A BLIP-2 that `from_parts` made is what a recipe trains, and keeps its sizes."""
    parts = {"bert": str(folder / "bert"), "num_queries": 3, "device": "cpu"}
    Blip2Retriever.from_parts("cells", **parts).save_pretrained(tmp_path / "new-itm")
    Blip2.from_parts("cells", "tiny", **parts).save_pretrained(tmp_path / "new")
    common = [*STEPS, f"cache={folder}/cache", "epochs=2"]
    for stage, recipe, preset, start in (
        (stage1, "tiny-itm", "new-itm", tmp_path / "new-itm"),
        (stage2, "tiny", "new", tmp_path / "one" / "model"),
    ):
        output = tmp_path / ("one" if stage is stage1 else "two")
        assert (
            stage.main(
                [str(folder / f"{recipe}.yaml"), f"preset={tmp_path / preset}", f"start={start}",
                 f"output={output}", "prompts=[describe this photo]", *common]
            ) == 0
        )  # fmt: skip
    retriever = Blip2Retriever.from_pretrained(str(tmp_path / "one" / "model"), device="cpu")
    assert retriever.embed_images([painted("red", "dog")]).shape == (1, 3, 256)
    before = read_tensors(tmp_path / "new-itm")
    moved = {
        n for n, v in read_tensors(tmp_path / "one" / "model").items() if (v != before[n]).any()
    }
    assert {"query_tokens", "itm_head.weight"} <= {name.removeprefix("qformer.") for name in moved}
    model = Blip2.from_pretrained(str(tmp_path / "two" / "model"), device="cpu")
    assert model.prompt.config.qformer.num_queries == 3
    assert isinstance(model.caption(painted("red", "dog")), str)


def test_what_goes_on_from_mini_learns_to_answer_by_itself():
    """Else figures of a new stage 2 would be those of mini's stage 1."""
    saved = EMBEDDED / "mini"
    assert Blip2Config.read(saved / "config.json").grounding == "mini-itm"
    assert model_config(str(saved), 2).grounding == "" == PRESETS["mini"].grounding


def write_asked(shard):
    """Painted photos, each with a caption and two questions."""
    with tarfile.open(shard, "w") as tar:
        for number, (colour, thing) in enumerate(PHOTOS):
            file = io.BytesIO()
            painted(colour, thing).save(file, "PNG")
            qa = [{"question": "what is in this photo ?", "answers": [thing, f"a {thing}"]},
                  {"question": "what is red or green or blue ?", "answers": [colour]}]  # fmt: skip
            text = {"image_id": f"a{number}", "captions": [f"a {colour} {thing}"], "qa": qa}
            for suffix, data in (("png", file.getvalue()), ("json", json.dumps(text).encode())):
                member = tarfile.TarInfo(f"a{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shard


def test_stage_1_learns_to_answer_what_it_sees(trained, tmp_path, capfd):
    """Colour and thing of painted photos, by the command, as a model that is asked says them."""
    shard = write_asked(tmp_path / "asked.tar")
    arguments = [str(trained / "tiny-itm.yaml"), f"data={shard}", f"start={trained}/one/model"]
    arguments += [f"output={tmp_path}/asked", "texts=both", "questions=12", "match_share=0.5"]
    arguments += ["samples=3", "drawn_share=0.5", "reward=0.1", f"cache={tmp_path}/cache"]
    assert stage1.main([*arguments, *STEPS, "epochs=120"]) == 0
    said = capfd.readouterr()
    assert ", answer " in said.out + said.err and ", reward " in said.out + said.err
    retriever = Blip2Retriever.from_pretrained(str(tmp_path / "asked" / "model"), device="cpu")
    assert Blip2Config.read(tmp_path / "asked" / "model" / "config.json").answers_questions
    assert Blip2Retriever.from_pretrained(str(trained / "one" / "model")).answerer is None
    states = retriever.states_of([painted(*photo) for photo in PHOTOS])
    for question, place in (("what is red or green or blue ?", 0), ("what is in this photo ?", 1)):
        answers = retriever.answerer.generate(states, [question] * 12, Decoding())
        right = [answer == photo[place] for answer, photo in zip(answers, PHOTOS, strict=True)]
        assert sum(right) >= 10, (question, answers)


def test_a_run_that_answers_and_draws_goes_on_from_where_it_stopped(trained, tmp_path, capfd):
    """Questions, drawn captions and hidden words of a step depend on the step alone."""
    shard = write_asked(tmp_path / "asked.tar")
    arguments = [str(trained / "tiny-itm.yaml"), f"data={shard}", f"start={trained}/one/model"]
    arguments += ["texts=both", "questions=7", "match_share=0.5", "token_keep=0.5", "samples=3"]
    arguments += ["drawn_share=0.5", "captions_at_once=2", f"cache={tmp_path}/cache", *STEPS]
    arguments += ["steps=9", "keep=9", "save_every=4", "validate_every=9"]
    assert stage1.main([*arguments, f"output={tmp_path}/whole"]) == 0
    states = tmp_path / "whole" / "checkpoints"
    begun = tmp_path / "begun" / "checkpoints"
    shutil.copytree(states / "step-00000004", begun / "step-00000004")
    capfd.readouterr()
    assert stage1.main([*arguments, f"output={tmp_path}/begun"]) == 0
    assert "continuing after step 4 of" in "".join(capfd.readouterr())
    whole, again = (read_tensors(tmp_path / name / "model") for name in ("whole", "begun"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    begins = read_tensors(trained / "one" / "model")
    assert not torch.equal(whole["lm_transform.weight"], begins["lm_transform.weight"])


def test_captions_and_questions_take_turns_by_themselves(trained, tmp_path):
    assert make_qa.main([f"{trained}/photos.tar", "--out", str(tmp_path / "qa")]) == 0
    source = f"2x {tmp_path}/qa-000000.tar, {trained}/dev.tar"
    photos = CaptionedPhotos(source, "cells", tmp_path / "cache", texts="both")
    captions, questions = photos.only("captions"), photos.only("qa")
    assert len(captions) == 24 and len(questions) == len(photos) - 24 > 12
    assert captions.steps_per_epoch(4) == (2 * 12 + 12) // 4
    assert questions.steps_per_epoch(4) == 2 * len(questions) // 4  # dev.tar has none
    seen = [captions.batch_at(step, 4) for step in range(9)]
    assert all(question == "" for batch in seen for question in batch.questions)
    names = [int(name) for batch in seen for name in batch.image_ids]
    assert sorted(names.count(name) for name in set(names)) == [1] * 12 + [2] * 12
    asked = [questions.batch_at(step, 4) for step in range(4)]
    assert all(question for batch in asked for question in batch.questions)
    assert captions.features is questions.features
    with pytest.raises(UserError, match=r"dev\.tar has answered questions; it needs some"):
        CaptionedPhotos(f"{trained}/dev.tar", "cells", tmp_path, texts="both").only("qa")


def test_a_recipe_puts_other_parts_in_the_place_of_its_presets(folder):
    path = folder / "tiny-itm.yaml"
    before = pretraining_config(read_recipe(path), 1)
    assert before == model_config("tiny-itm", 1)
    changes = ["image_encoder=efficientnet-lite2-two-sizes", "dropout=0.25", "query_tokens=5"]
    after = pretraining_config(read_recipe(path, changes), 1)
    qformer = replace(before.qformer, encoder_width=1411, dropout=0.25, num_queries=5)
    expected = replace(
        before, image_encoder="efficientnet-lite2-two-sizes", image_positions=250, qformer=qformer
    )
    assert after == expected
    with pytest.raises(UserError, match="There is no image encoder 'resnet'"):
        pretraining_config(read_recipe(path, ["image_encoder=resnet"]), 1)
    with pytest.raises(UserError, match=r"dropout is 0\.95; choose at most 0\.9"):
        read_recipe(path, ["dropout=0.95"])


def test_the_ablation_learns_fewer_objectives_with_more_queries(folder, tmp_path, capfd):
    """What is left out is neither measured nor moved, and stage 2 takes the number of queries."""
    common = [*STEPS, f"cache={folder}/cache", "query_tokens=7", "epochs=2"]
    first = [str(folder / "tiny-itm.yaml"), f"start={folder}/bert", f"output={tmp_path}/one"]
    watched = [f"dev_data={folder}/dev.tar", "validate_every=2"]
    assert stage1.main([*first, "objectives=[itc, itm]", *common, *watched]) == 0
    said = capfd.readouterr()
    assert "itm_hard" in said.out + said.err and "itg" not in said.out + said.err
    torch.manual_seed(0)
    config = model_config("tiny-itm", 1, query_tokens=7)
    before = Representation(config)
    stage1.start_model(before, str(folder / "bert"))
    before, after = before.state_dict(), read_tensors(tmp_path / "one" / "model")
    heads = ("lm_transform", "lm_norm", "lm_bias", "itm_head")
    moved = {
        head: any((after[n] != v.to(after[n].dtype)).any() for n, v in before.items() if head in n)
        for head in heads
    }
    assert moved == {"lm_transform": False, "lm_norm": False, "lm_bias": False, "itm_head": True}
    assert after["qformer.query_tokens"].shape[-2] == 7
    second = [str(folder / "tiny.yaml"), f"start={tmp_path}/one/model", f"output={tmp_path}/two"]
    assert stage2.main([*second, "prompts=[describe this photo]", *common]) == 0
    model = Blip2.from_pretrained(str(tmp_path / "two" / "model"), device="cpu")
    assert model.prompt.config.qformer.num_queries == 7


def test_itm_can_be_left_out(folder):
    torch.manual_seed(0)
    model = Representation(PRESETS["tiny-itm"])
    stage1.leave_out(model, ("itc", "itg"))
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {"itm_head.weight", "itm_head.bias"}
    ids = torch.randint(5, 20, (4, 6))
    given = torch.randn(4, 9, 24), ids, torch.ones_like(ids), torch.arange(4)
    losses = model(*given, objectives=("itc", "itg"))
    assert set(losses) == {"itc", "itg"}
    sum(losses.values()).backward()
    without = {name for name, value in model.named_parameters() if value.grad is None}
    assert without == {"itm_head.weight", "itm_head.bias"}
    model.eval(), torch.manual_seed(1)
    every = model(*given)
    assert set(every) == {"itc", "itm", "itg"}
    for name, value in model(*given, objectives=("itc", "itg")).items():
        torch.testing.assert_close(value, every[name])


def test_drawn_tokens_are_distinct_and_differ_from_photo_to_photo():
    torch.manual_seed(3)
    kept = inputs.draw_tokens(6, 9, 0.5)
    assert kept.shape == (6, 4)
    assert bool((kept.diff(dim=1) > 0).all()) and int(kept.min()) >= 0 and int(kept.max()) < 9
    assert len({tuple(row) for row in kept.tolist()}) > 1
    torch.manual_seed(3)
    assert torch.equal(kept, inputs.draw_tokens(6, 9, 0.5))
    assert torch.equal(inputs.draw_tokens(6, 9, 1.0), torch.arange(9).expand(6, 9))
    assert inputs.draw_tokens(6, 9, 0.01).shape == (6, 1)


def test_hidden_pieces_are_words_drawn_anew():
    torch.manual_seed(0)
    lengths = torch.tensor([9, 2, 5, 12])
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.where(mask.bool(), torch.arange(12) + 10, 0)
    assert inputs.hide_pieces(ids, mask, 0, 4) is ids
    shares, apart = torch.zeros(4, 12), 0
    for _ in range(400):
        read = inputs.hide_pieces(ids, mask, 0.3, 4)
        assert bool(((read == ids) | (read == 4)).all())
        shares += read == 4
        apart += int(not torch.equal(read[0, 1:8] == 4, read[3, 1:8] == 4))
    inside = (torch.arange(12) > 0) & (torch.arange(12) < lengths[:, None] - 1)
    assert bool((shares[~inside] == 0).all())  # [CLS], [SEP] and padding
    assert bool(((shares[inside] / 400 - 0.3).abs() < 0.1).all())
    assert apart > 300  # each row draws for itself
    assert int(inside.sum()) == 20 and torch.equal(ids[0, :9], torch.arange(9) + 10)


def test_stage_2_starts_from_stage_1(trained):
    """Without a step of training, what both stages share is equal, tensor by tensor."""
    torch.manual_seed(0)
    prompt = VisualPrompt(PRESETS["tiny"])
    assert not stage2.start_from(prompt, str(trained / "one" / "model"))
    saved = read_tensors(trained / "one" / "model")
    own = prompt.state_dict()
    shared = [name for name in own if not name.startswith("projection.")]
    assert len(shared) > 60
    assert all(torch.equal(own[name], saved[name].float()) for name in shared)


def test_stage_2_goes_on_from_stage_2(trained):
    """All of it is the checkpoint's, the projection, too."""
    prompt = VisualPrompt(PRESETS["tiny"])
    assert stage2.start_from(prompt, str(trained / "two" / "model"))
    saved = read_tensors(trained / "two" / "model")
    assert all(torch.equal(own, saved[name].float()) for name, own in prompt.state_dict().items())


def test_conversations_and_captions_of_its_own_go_through_stage_2(trained, tmp_path, capfd):
    """As the command runs it: made questions, talks, samples judged by the captions."""
    shards = str(tmp_path / "asked")
    assert make_qa.main([f"{trained}/photos.tar", "--out", shards]) == 0
    assert "yes/no" in capfd.readouterr().out
    arguments = [str(trained / "tiny.yaml"), f"data={shards}-*.tar", f"dev_data={trained}/dev.tar"]
    arguments += [f"start={trained}/two/model", f"output={tmp_path}/three", "texts=both"]
    arguments += ["turns=3", "samples=3", "token_keep=0.7", "prompts=[describe this photo]"]
    assert stage2.main([*arguments, *STEPS, f"cache={tmp_path}/cache", "epochs=3"]) == 0
    said = capfd.readouterr()
    assert "reward" in said.out + said.err and "drawn_cider" in said.out + said.err
    before = read_tensors(trained / "two" / "model")
    after = read_tensors(tmp_path / "three" / "model")
    moved = [name for name, value in after.items() if (value != before[name]).any()]
    assert len(moved) > 60


def test_every_turn_of_a_talk_is_learned_behind_those_before_it(trained):
    recipe = Recipe(preset="tiny", data="", prompts=("describe this photo",), turns=3)
    language = language_model()
    losses = stage2.Stage2Losses(recipe, None, language)
    talk = [("", "a dog"), ("what is red ?", "a ball")]
    batch = Batch(
        torch.zeros(1, 9, 24), ["a dog"], [""], [[talk]], [[]], torch.zeros(1), [random.Random(0)]
    )
    first = ("describe this photo", "a dog")
    assert losses.told(batch) == [[[first], [first, ("what is red ?", "a ball")]]]
    text = language.prompt("what is red ?", [first])
    read, said = language._read_and_said([first, ("what is red ?", "a ball")])
    assert read == language.token_ids(text)
    assert said == [*language.token_ids("a ball"), language.end_token_id]


def test_matched_scale_makes_visual_tokens_as_large_as_words():
    torch.manual_seed(0)
    prompt, language = VisualPrompt(PRESETS["tiny"]), language_model()
    stage2.match_scale(prompt, language)
    with torch.no_grad():
        visual = prompt(torch.randn(200, 9, 24))
    words = language.model.get_input_embeddings().weight
    assert float(visual.std()) == pytest.approx(float(words.std()), rel=0.2)


def test_stage_2_writes_a_model_that_answers(trained):
    model = Blip2.from_pretrained(str(trained / "two" / "model"), device="cpu")
    photo = painted("red", "dog")
    whole = model.caption(photo, "describe this photo", max_new_tokens=5)
    assert whole and whole == "".join(model.stream(photo, "describe this photo", max_new_tokens=5))
    assert model.generate([photo, photo], "describe this photo", max_new_tokens=5) == [whole] * 2
    chat = model.chat(photo)
    answer = chat.ask("what is this", max_new_tokens=4)
    chat.ask("what is red", max_new_tokens=4)
    assert [turn[0] for turn in chat.turns] == ["what is this", "what is red"]
    assert chat.turns[0][1] == answer


def test_the_report_of_a_trained_retriever(trained, capsys):
    report = trained / "report.json"
    arguments = ["--model", f"{trained}/one/model", "--data", f"{trained}/photos.tar"]
    arguments += ["--output", str(report), "--k-test", "4", "--device", "cpu"]
    assert evaluate.main(["retrieval", *arguments]) == 0
    told = json.loads(report.read_text())
    assert told["counts"] == {
        "photos": 12, "texts": 24, "texts_asking_reranked": 24,
        "pairs_matched": told["counts"]["pairs_matched"],
    }  # fmt: skip
    assert told["metrics"]["itc"]["TR@10"] == 1.0


@pytest.mark.parametrize(
    ("stage", "overrides", "said"),
    [
        (stage1, ["preset=tiny"], "preset 'tiny' is not of stage 1; choose mini-itm, "),
        (stage2, ["preset=nothing", "prompts=[a]"], "preset 'nothing' is not of stage 2"),
        (stage2, ["prompts=[a]", "samples=1"], "samples: 1 doesn't go with this recipe"),
        (stage2, ["prompts=[a]", "samples=2", "pool=1"], "samples: 2 doesn't go with this recipe"),
        (stage1, ["batch_size=4", "dev_data={data}"], "12 photos of dev_data are in data, too (p0"),
        (stage1, ["batch_size=4", "pool=1"], "Streamed photos have no cache of features"),
        (stage1, ["batch_size=4", "resample=true"], "resample: true needs pool: N"),
        (stage1, ["batch_size=13"], "12 photos or questions, fewer than one batch of 13"),
        (stage1, ["data=nowhere.tar"], "No shard is at nowhere.tar"),
        (stage1, ["objectives=[itm, itg]"], "objectives must be itc and any of itm, itg"),
        (stage1, ["objectives=[itc, lm]"], "objectives must be itc and any of itm, itg"),
        (stage1, ["query_tokens=-1"], "query_tokens is -1; choose at least 0"),
        (stage1, ["token_keep=1.5"], "token_keep is 1.5; choose at most 1"),
        (stage1, ["start=nowhere"], "There is no model 'nowhere'"),
        (stage2, ["preset=tiny", "prompts=[a]", "start=nowhere"], "There is no model 'nowhere'"),
        (stage2, ["preset=tiny", "start="], "has no prompts"),
        (stage2, ["preset=tiny", "prompts=[a]", "objectives=[itc]"], "learned in stage 1"),
        (stage2, ["preset=tiny", "prompts=[a]", "hide_pieces=0.1"], "hidden in stage 1"),
        (stage1, ["average_last=3"], "average_last needs as many checkpoints; set keep"),
        (stage1, ["hide_pieces=1"], "hide_pieces is 1.0; choose at most 0.9"),
        (stage1, ["texts=qa"], "Stage 1 learns from captions; leave texts out, or give texts:"),
        (stage1, ["texts=both"], "give texts: both and questions: N"),
        (stage1, ["questions=4"], "give texts: both and questions: N"),
        (stage1, ["samples=1"], "samples: 1 has nothing to be compared with"),
        (stage1, ["samples=2", "pool=1"], "need the list of all photos; set pool: 0"),
        (stage1, ["samples=2", "shard=true"], "Captions are not drawn from a sharded model"),
        (stage1, ["samples=2", "objectives=[itc, itm]"], "are learned by ITG; leave itg in"),
        (stage1, ["texts=both", "questions=4", "turns=3"], "Stage 1 holds no talks"),
        (stage1, ["texts=both", "questions=4"], "photos.tar has answered questions; it needs some"),
        (stage1, ["match_share=0"], "match_share is 0.0; choose at least 0.01"),
        (stage2, ["preset=tiny", "prompts=[a]", "questions=4"], "learned beside pairs in stage 1"),
    ],
)
def test_errors_are_one_line(folder, capsys, stage, overrides, said):
    recipe = str(folder / "tiny-itm.yaml")
    start = [f"start={folder}/bert", f"cache={folder}/cache", f"output={folder}/no"]
    overrides = [text.replace("{data}", f"{folder}/photos.tar") for text in overrides]
    assert stage.main([recipe, *start, *overrides]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
