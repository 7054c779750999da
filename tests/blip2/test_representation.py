"""Stage 1 as a whole: what is trained, and that it can be."""

from dataclasses import replace

import torch

from blip2.checkpoints import start_from_bert
from blip2.qformer import QFormer
from blip2.representation import Representation
from blip2.tokenization import TextTokenizer
from tests.tiny import QFORMER, STAGE1, features, text_tokenizer

CAPTIONS = [
    "a dog runs on the grass",
    "a cat sits in the snow",
    "a boy jumps in the water",
    "a girl plays on the street",
    "the man sits on a red bike",
    "a blue ball in the grass",
    "the dog jumps on the green ball",
    "a boy runs on the street",
]


def tokenizer(tmp_path):
    text_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path, 16)


def test_every_parameter_gets_a_gradient(tmp_path):
    torch.manual_seed(0)
    model = Representation(STAGE1)
    ids, mask = tokenizer(tmp_path)(CAPTIONS[:4])
    sum(model(features(4), ids, mask, torch.arange(4)).values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A softmax does not change when all its inputs move together, so biases of keys have none.
    assert [name for name in without if not name.endswith("key.bias")] == []


def test_kept_features_are_those_of_the_whole_photo():
    """Reading some features gives what reading all and choosing gives: positions go with them."""
    torch.manual_seed(0)
    model = Representation(STAGE1)
    photos = features(2)
    kept = torch.tensor([[0, 2, 7], [1, 2, 8]])
    whole = model.image_reader(photos)  # [2, 9, C]
    chosen = torch.stack([photo[row] for photo, row in zip(whole, kept, strict=True)])
    torch.testing.assert_close(model.image_reader(photos, kept), chosen, rtol=0, atol=0)
    layer = model.image_states(photos, kept).layers[-1]
    torch.testing.assert_close(
        layer.key[1, :, 2], model.image_states(photos).layers[-1].key[1, :, 8]
    )


def test_checkpointing_keeps_less_and_computes_the_same(tmp_path):
    ids, mask = tokenizer(tmp_path)(CAPTIONS)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = Representation(replace(STAGE1, qformer=replace(QFORMER, dropout=0.1)))
        model.qformer.checkpointing = checkpointing
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        torch.manual_seed(1)  # dropout is drawn the same both times
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = model(features(8), ids, mask, torch.arange(8))
        sum(losses.values()).backward()
        grads = {name: value.grad for name, value in model.named_parameters()}
        found.append((losses, grads, sum(kept.values())))
    (losses, grads, size), (again, same, less) = found
    for name, value in losses.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    for name, value in grads.items():
        torch.testing.assert_close(same[name], value, rtol=1e-5, atol=1e-7)
    assert less < 0.7 * size


def test_overfits_eight_pairs(tmp_path):
    torch.manual_seed(0)
    model = Representation(STAGE1)
    words = tokenizer(tmp_path)
    ids, mask = words(CAPTIONS)
    photos = features(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for step in range(220):
        torch.manual_seed(step)
        losses = model(photos, ids, mask, torch.arange(8))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert float(losses["itm"]) < 0.05
    model.eval()
    with torch.no_grad():
        states = model.image_states(photos)
        image = model.project_queries(model.qformer.encode_image(states).queries)
        sim = torch.einsum("iqd,td->itq", image, model.embed_texts(ids, mask)).amax(-1)
        assert sim.argmax(0).tolist() == list(range(8))
        assert sim.argmax(1).tolist() == list(range(8))
        written = words.decode(model.caption(states, words.sep_token_id, max_length=12))
    assert written == CAPTIONS


def test_bert_start_copies_every_tensor_and_folds_the_segment():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=QFORMER.vocab_size - 1,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
            initializer_range=0.2,
        )
    ).eval()
    qformer = QFormer(QFORMER).eval()
    fresh = qformer.layers[0].cross_attention.query.weight.clone()
    start_from_bert(qformer, bert.state_dict())
    ids = torch.tensor([[1, 5, 9, 2, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        ours = qformer.encode_text(ids, mask).text
        theirs = bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=0, atol=1e-5)
    for layer in qformer.layers:
        for one, other in zip(
            layer.query_ffn.parameters(), layer.text_ffn.parameters(), strict=True
        ):
            assert torch.equal(one, other)
    assert torch.equal(fresh, qformer.layers[0].cross_attention.query.weight)
