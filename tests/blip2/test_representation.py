"""Stage 1 as a whole: what is trained, and that it can be."""

from dataclasses import replace

import torch

from blip2.checkpoints import start_from_bert
from blip2.objectives import hard_negatives, similarity
from blip2.qformer import KeyValue, QFormer
from blip2.representation import Asked, Drawn, Representation
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


def asked(words) -> Asked:
    questions = ["what is on the grass", "what is in the snow ?", "what is red"]
    answers = ["a dog", "cat", "the red bike"]
    return Asked(features(3, seed=5), *words(questions), *words(answers))


def test_answers_are_learned_by_the_log_likelihood_of_their_pieces(tmp_path):
    """Against each question alone, without padding, with the loss written out."""
    torch.manual_seed(0)
    model = Representation(STAGE1).eval()
    words = tokenizer(tmp_path)
    together = asked(words)
    ids, mask = words(CAPTIONS[:4])
    with torch.no_grad():
        losses = model(features(4), ids, mask, torch.arange(4), asked=together)
        each = []
        for row in range(3):
            length = int(together.mask[row].sum()), int(together.answer_mask[row].sum())
            question = together.ids[row : row + 1, : length[0]]
            answer = together.answer_ids[row : row + 1, : length[1]].clone()
            following = answer[0, 1:].clone()
            answer[:, 0] = model.dec_token_id
            image = model.image_states(together.features[row : row + 1])
            read = model.qformer(image, question, torch.ones_like(question), "bidirectional")
            text = model.qformer.decode(answer, torch.ones_like(answer), read.cache)
            chances = model.lm_logits(text[0, :-1]).log_softmax(-1)
            right = chances.gather(1, following[:, None])[:, 0]
            each.append(-(0.9 * right + 0.1 * chances.mean(-1)))
        plain = torch.cat(each).mean()
    torch.testing.assert_close(losses["answer"], plain, rtol=1e-5, atol=1e-6)
    assert set(losses) == {"itc", "itm", "itg", "answer"}


def test_matching_of_a_share_is_that_of_the_first_pairs(tmp_path):
    torch.manual_seed(0)
    model = Representation(STAGE1).eval()
    ids, mask = tokenizer(tmp_path)(CAPTIONS)
    given = features(8), ids, mask, torch.arange(8)
    sizes = []
    match = model.match_logits
    model.match_logits = lambda *pairs: sizes.append(len(pairs[1])) or match(*pairs)
    torch.manual_seed(1)
    share = model(*given, match_share=0.25)
    torch.manual_seed(1)
    whole = model(*given)
    assert sizes == [6, 24]
    states = model.image_states(given[0])
    image = model.project_queries(model.qformer.encode_image(states).queries)
    torch.manual_seed(1)
    sim = similarity(image, model.embed_texts(ids, mask))
    photos, texts = hard_negatives(sim, model.temperature, torch.arange(8))
    rows = [(0, 0), (1, 1), (int(photos[0]), 0), (int(photos[1]), 1), (0, int(texts[0])),
            (1, int(texts[1]))]  # fmt: skip
    logits = torch.cat([
        match(states.select(torch.tensor([photo])), ids[[text]], mask[[text]])
        for photo, text in rows
    ])  # fmt: skip
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(share["itm"], expected, rtol=1e-4, atol=1e-5)
    for name in ("itc", "itg"):
        torch.testing.assert_close(share[name], whole[name])
    torch.manual_seed(1)
    smooth = model(*given, match_share=0.25, match_smoothing=0.2)
    even = -logits.log_softmax(-1).mean()  # a fifth of the target is spread over both
    torch.testing.assert_close(smooth["itm"], 0.8 * expected + 0.2 * even, rtol=1e-4, atol=1e-5)


def test_captions_are_drawn_from_what_itg_holds_likely(tmp_path):
    """Shares of the first piece among many draws, and padding behind the end."""
    torch.manual_seed(0)
    model = Representation(STAGE1).eval()
    words = tokenizer(tmp_path)
    with torch.no_grad():
        model.lm_bias[words.sep_token_id] += 1
        cache = model.qformer.encode_image(model.image_states(features(2))).cache
        start = torch.full((2, 1), model.dec_token_id)
        text = model.qformer.decode(start, torch.ones_like(start), cache)
        chances = (model.lm_logits(text[:, 0]) / 0.5).softmax(-1)
    ids, mask = model.draw(cache, 4000, 0.5, words.sep_token_id, 6)
    first = torch.stack([ids[:4000, 1].bincount(minlength=chances.shape[1]),
                         ids[4000:, 1].bincount(minlength=chances.shape[1])])  # fmt: skip
    assert float((first / 4000 - chances).abs().max()) < 0.03
    assert bool((ids[:, 0] == model.dec_token_id).all())
    ended = (ids == words.sep_token_id).int().cumsum(1)
    assert torch.equal(mask.bool(), ended - (ids == words.sep_token_id).int() == 0)
    lengths = mask.sum(1)
    assert len(lengths.unique()) > 3 and ids.shape[1] <= 7


def test_a_step_makes_worthy_captions_likelier_and_the_others_less(tmp_path):
    torch.manual_seed(0)
    model = Representation(STAGE1).eval()
    words = tokenizer(tmp_path)
    photos = features(4)
    ids, mask = words(CAPTIONS[:4])
    own, own_mask = words(["the red ball", "a street", "snow", "a man on the bike"])
    drawn = Drawn(own, own_mask, torch.tensor([1.0, -1.0, 0.0, 0.5]), 2)

    def likelihoods():
        with torch.no_grad():
            cache = model.qformer.encode_image(model.image_states(photos[:2])).cache
            twice = [KeyValue(*(s[[0, 0, 1, 1]] for s in layer)) for layer in cache]
            read = own.clone()
            read[:, 0] = model.dec_token_id
            text = model.qformer.decode(read, own_mask, twice)
            each = model.lm_logits(text[:, :-1]).log_softmax(-1)
            each = each.gather(-1, own[:, 1:, None])[..., 0] * own_mask[:, 1:]
        return each.sum(1)

    before = likelihoods()
    losses = model(photos, ids, mask, torch.arange(4), drawn=drawn)
    expected = -(drawn.worth * before).sum() / own_mask[:, 1:].sum()
    torch.testing.assert_close(losses["reward"], expected, rtol=1e-5, atol=1e-6)
    losses["reward"].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    moved = likelihoods() - before
    assert moved[0] > 0 > moved[1]
