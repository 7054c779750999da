"""Fine-tuning: the image encoder learns by layers, the question is read, what it gives loads."""

import json

import pytest
import torch

from blip2 import Blip2, Blip2Retriever
from blip2.checkpoints import read_tensors
from blip2.representation import Representation
from blip2.sources import open_source
from blip2.vision import build_architecture
from blip2.vision_transformers import resized
from tests.parity.published import tokenizer
from tests.train import tiny_finetune
from tests.train.tiny_finetune import ASKED, painted
from train import evaluate, finetune
from train.config import Recipe
from train.loop import train
from train.optim import build_optimizer
from train.parts import Part


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny published models of both stages, the presets that they are of, and shards."""
    folder = tmp_path_factory.mktemp("finetune")
    tiny_finetune.prepare(folder)
    tiny_finetune.register(folder)
    tiny_finetune.write_stage1(folder)
    yield folder
    tiny_finetune.forget()


def tune(folder, task, *settings, steps=2):
    """Run the command as a user would; the folder of the fine-tuned model."""
    output = folder / f"{task}-{len(list(folder.glob(f'{task}-*')))}"
    arguments = [tiny_finetune.recipe(folder, task), f"output={output}", f"steps={steps}"]
    assert finetune.main([*arguments, *settings]) == 0
    return output / "model"


def test_captions_train_the_encoder_at_another_size(folder):
    made = tune(folder, "caption", "image_size=84")
    whole = {"device": "cpu", "dtype": torch.float32}
    start = Blip2.from_pretrained(str(folder / "opt"), image_size=84, **whole)
    model = Blip2.from_pretrained(str(made), **whole)
    assert model.encoder.image_size == 84 and model.encoder.num_tokens == 37
    before, after = (m.encoder.state_dict() for m in (start, model))
    same_shape = [n for n in after if n in before and before[n].shape == after[n].shape]
    assert len(same_shape) == len(after) - 1  # but for the positions
    for name in same_shape:  # each has learned; two steps of at most a thousandth, and rounding
        moved = (after[name] - before[name]).abs().max()
        assert 5e-4 < moved < 4e-3, name
    assert not any(p.requires_grad for p in model.encoder.parameters())
    photo = painted("red", "dog")
    assert set(model.caption(photo).split()) <= set(tokenizer("opt").get_vocab())
    # Its folder is whole: the encoder it was started from is no longer needed.
    assert {"image_reader.encoder.model.embeddings.position_embedding", "query_tokens"} <= {
        name.removeprefix("qformer.") for name in read_tensors(made)
    }
    # Gone on from, it keeps its size.
    again = Blip2.from_pretrained(str(tune(folder, "caption", f"start={made}")), device="cpu")
    assert again.encoder.image_size == 84


def test_positions_for_larger_photos_are_those_interpolated_for_inference(folder):
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    expected = open_source(str(folder / "opt"), 2).image_encoder(torch.float32, 84)(pixels)
    fresh = open_source(str(folder / "opt"), 2).image_encoder(torch.float32)
    larger = resized(fresh, 84)
    assert larger.model.embeddings.position_embedding.shape == (1, 37, 48)
    torch.testing.assert_close(larger(pixels), expected)


def test_clip_is_resized_alike():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from blip2.vision_transformers import ClipViT, at_size

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=56, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPVisionModel(config).eval()
    pixels = torch.randn(2, 3, 84, 84)
    expected = at_size(ClipViT(model).freeze(), 84)(pixels)
    larger = resized(ClipViT(model).freeze(), 84)
    assert larger.model.embeddings.position_embedding.weight.shape == (37, 32)
    torch.testing.assert_close(larger(pixels), expected)
    assert larger.num_layers == 2 and larger.layer_of("model.encoder.layers.1.mlp.fc1.bias") == 2


def test_the_question_is_read_by_the_q_former(folder):
    """One photo, two questions: the visual prompt differs, and the answers are learned."""
    settings = [
        f"text_start={folder}/itm", "texts=qa", "question_prompt='Question: {} Answer:'",
        "warmup_steps=20", "learning_rate=3e-3",
    ]  # fmt: skip
    made = tune(folder, "vqa", *settings, steps=400)
    model = Blip2.from_pretrained(str(made), device="cpu")
    assert model.reads_question
    photo, asked = painted("red", "dog"), list(ASKED)
    one, other = model.visual_prompt([photo, photo], asked)
    assert (one - other).abs().max() > 0.1
    forms = [f"Question: {question} Answer:" for question in asked]
    for form, question in zip(forms, asked, strict=True):
        assert torch.equal(
            model.visual_prompt([photo], [form]), model.visual_prompt([photo], [question])
        )
    report = folder / "vqa.json"
    arguments = ["--model", str(made), "--data", f"{folder}/train.tar", "--device", "cpu"]
    arguments += ["--prompt", "Question: {} Answer:", "--output", str(report)]
    assert evaluate.main(["vqa", *arguments, "--num-beams", "1"]) == 0
    assert (
        json.loads(report.read_text())["metrics"]["VQA accuracy"]["all"] > 0.6
    )  # 0.5 without a look at the question
    chat = model.chat(photo)
    answers = [chat.ask(question, max_new_tokens=3) for question in asked]
    assert answers[0] == "dog" and model.generate(photo, forms[1]) == "red"
    assert [turn[0] for turn in chat.turns] == asked
    assert chat.turns[1][1] == answers[1]
    model.save_pretrained(folder / "again")
    again = Blip2.from_pretrained(str(folder / "again"), device="cpu")
    torch.testing.assert_close(again.visual_prompt([photo], asked[:1])[0], one)


def test_a_model_that_reads_questions_goes_on_reading_them(folder):
    settings = ["texts=qa", "question_prompt='Question: {} Answer:'"]
    first = tune(folder, "vqa", *settings, f"text_start={folder}/itm")
    second = tune(folder, "vqa", *settings, f"start={first}")
    assert Blip2.from_pretrained(str(second), device="cpu").reads_question
    before, after = read_tensors(first), read_tensors(second)
    name = "qformer.layers.0.text_ffn.inner.weight"
    assert not before[name].equal(after[name])
    both = [f"start={first}", f"text_start={folder}/itm", *settings]
    output = f"output={folder}/no"
    assert finetune.main([tiny_finetune.recipe(folder, "vqa"), *both, output, "steps=1"]) == 2


def test_the_text_branch_is_that_of_stage_1_and_the_rest_that_of_stage_2(folder):
    source = open_source(str(folder / "opt"), 2)
    from blip2.visual_prompt import VisualPrompt

    prompt = source.build(VisualPrompt, torch.device("cpu"))
    recipe = Recipe(
        "tiny-opt", "x", task="vqa", texts="qa", start=str(folder / "opt"),
        text_start=str(folder / "itm"),
    )  # fmt: skip
    config = finetune.tuned_config(recipe, source.config)
    reading, words = finetune.with_text_branch(prompt, config, recipe.text_start)
    taught = open_source(str(folder / "itm"), 1).build(Representation, torch.device("cpu"))
    own, new, text = prompt.state_dict(), reading.state_dict(), taught.state_dict()
    assert all(torch.equal(new[name], value) for name, value in own.items())
    added = set(new) - set(own)
    assert {name.split(".")[-3] for name in added if "layers" in name} == {"text_ffn"}
    assert len(added) == 2 + 4 * 6 and all(torch.equal(new[n], text[n]) for n in added)
    assert words(["what is this"])[0].shape == (1, 5)


def test_retrieval_goes_on_with_all_three_objectives(folder, capsys):
    made = tune(folder, "retrieval", "layer_decay=0.9", "epochs=1", steps=3)
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in ("itc", "itm", "itg", "ir1", "itm_hard"))
    retriever = Blip2Retriever.from_pretrained(str(made), device="cpu")
    start = Blip2Retriever.from_pretrained(str(folder / "stage1"), device="cpu")
    photos = [painted("red", "dog"), painted("blue", "cat")]
    assert (retriever.embed_images(photos) - start.embed_images(photos)).abs().max() > 1e-3
    assert retriever.match(photos, ["the dog in red", "the cat in blue"]).shape == (2,)


def test_layer_wise_decay_is_applied(folder):
    """Adam's first step is the learning rate itself, so each layer's step shows its own."""
    encoder = open_source(str(folder / "opt"), 2).image_encoder(torch.float32).unfreeze()
    head = torch.nn.Linear(48, 1)
    model = torch.nn.ModuleDict({"encoder": encoder, "head": head})
    recipe = Recipe(
        "x", "x", output=str(folder / "decay"), learning_rate=1e-3, layer_decay=0.5,
        weight_decay=0, clip_norm=0, warmup_steps=0, precision="no", final_learning_rate=1e-3,
    )  # fmt: skip
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def losses_at(model, step, device, part: Part):
        pixels = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(step))
        return {"x": model["head"](model["encoder"](pixels)).square().mean()}

    train(recipe, model, build_optimizer(model, recipe), 1, losses_at)
    expected = {"embeddings": 4, "layers.0.": 3, "layers.1.": 2, "layers.2.": 1, "head": 0}
    for name, value in model.named_parameters():
        power = next(power for key, power in expected.items() if key in name)
        step = float((value.detach() - before[name]).abs().max())
        assert step == pytest.approx(1e-3 * 0.5**power, rel=0.02), name
    # Transformers holds a bias of keys, which attention can't feel: it stays.
    for layer in range(3):
        name = f"encoder.model.encoder.layers.{layer}.self_attn.qkv.bias"
        held = model.get_parameter(name)[48:96]
        assert torch.equal(held, before[name][48:96]) and encoder.num_held == 3 * 48


def test_an_encoder_computed_again_has_the_same_gradients(folder):
    found = []
    for again in (False, True):
        encoder = open_source(str(folder / "opt"), 2).image_encoder(torch.float32)
        encoder.unfreeze(checkpointing=again).train()
        layers = encoder.model.encoder.layers
        assert all(layer.training == again for layer in layers)
        pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
        encoder(pixels).square().mean().backward()
        found.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
        encoder.eval()
        assert not any(module.training for module in encoder.modules())
    assert found[0].keys() == found[1].keys() and len(found[0]) > 30
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_an_architecture_without_weights_takes_those_of_a_checkpoint(folder):
    theirs = open_source(str(folder / "opt"), 2).image_encoder(torch.float32)
    own = build_architecture("tiny-eva")
    assert own.state_dict().keys() == theirs.state_dict().keys()
    assert not own.trained and not any(p.requires_grad for p in own.parameters())


def test_a_published_retriever_is_tuned_without_itg(folder):
    """Its layout lacks ITG's head; what comes out loads, and its ITM has learned."""
    made = tune(folder, "retrieval", f"start={folder}/itm", "objectives=[itm, itc]")
    before = Blip2Retriever.from_pretrained(str(folder / "itm"), device="cpu")
    after = Blip2Retriever.from_pretrained(str(made), device="cpu")
    photo = painted("red", "dog")
    said = "a photo of the dog in red"
    assert float(before.match([photo], [said])) != float(after.match([photo], [said]))
    assert after.embed_images([photo]).shape == before.embed_images([photo]).shape


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task="], "The recipe has no task; choose caption, vqa, retrieval"),
        (["task=paint"], "task must be one of caption, vqa, retrieval"),
        (["task=vqa"], "The task vqa trains on qa; set texts: qa"),
        (["text_start=x"], "Only vqa has the Q-Former read a question"),
        (["preset=pretrain-opt-2.7b"], "is of other sizes than the preset 'pretrain-opt-2.7b'"),
        (["task=retrieval", "preset=tiny-itm", "start={}/itm"], "lacks the head of ITG"),
        (["objectives=[itc]"], "Only retrieval learns by ITC, ITM and ITG"),
        (["hide_pieces=0.1"], "Only retrieval hides word pieces"),
        (["query_tokens=5"], "A model has its queries when it is fine-tuned"),
        (["image_size=85"], "no multiple of the patch, 14 pixels; choose 84"),
        (["task=vqa", "texts=qa", "text_start=nowhere"], "There is no model 'nowhere'"),
        (["task=vqa", "texts=qa", "question_prompt=why"], "question_prompt has no {}"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, settings, said):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: caption\npreset: tiny-opt\ndata: {folder}/train.tar\nstart: {folder}/opt\n"
        f"cache: ''\nbatch_size: 4\noutput: {tmp_path}/out\ntrain_encoder: true\n"
    )
    settings = [text.replace("{}/", f"{folder}/") for text in settings]
    assert finetune.main([str(recipe), *settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1] and lines[-1].startswith("error: ")
