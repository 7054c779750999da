"""What of a text the tokenizer of mini-itm reads, and what is said about the rest."""

from pathlib import Path

import pytest

from blip2.checkpoint_files import EMBEDDED
from blip2.tokenization import TextTokenizer
from tests.tiny import text_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(EMBEDDED / "mini-itm", 24)


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "A DOG!",
        "Müller",
        "Mu\u0308ller",  # accents are taken off, in whatever form they come
        "don't look, “Anna”",
        "5 µm",
        "3 dogs — 2 cats",
        "IMG_1234",
        "half-timbered house",
    ],
)
def test_what_it_reads(tokenizer, text):
    read = tokenizer.read(text)
    assert read.complete and read.known_words and read.notes == ()
    assert (read.text, read.unknown_words) == (text, ())


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("狗", ("狗",)),
        ("🐶", ("🐶",)),
        ("🐶🐱", ("🐶🐱",)),
        ("犬と猫", ("犬と猫",)),
        # In single letters, which an English vocabulary has of most scripts.
        ("собака", ("собака",)),
        ("كلب", ("كلب",)),
        ("한국", ("한국",)),
        ("狗!", ("狗",)),
        ("[UNK]", ("[UNK]",)),
        ("[MASK] [SEP]", ("[MASK]", "[SEP]")),
        ("x" * 120, ("x" * 120,)),
        ("\u200b", ()),
        ("\u200d\ufeff", ()),
        ("...", ()),
        ("?!", ()),
        ("→ ©", ()),
        ("", ()),
    ],
)
def test_what_it_does_not_read(tokenizer, text, unknown):
    read = tokenizer.read(text)
    assert (read.known_words, read.unknown_words) == (0, unknown)


def test_unknown_words_are_named_once_and_whole(tokenizer):
    read = tokenizer.read("a dog, 狗狗 and a 🐶, 狗狗 and кошка")
    assert read.unknown_words == ("狗狗", "🐶", "кошка")
    assert read.notes == ("The model does not know “狗狗”, “🐶” and “кошка”.",)
    assert not read.complete and read.words == read.words_read == 8
    seven = " ".join("狗猫马牛羊猪鸟")
    assert tokenizer.read(f"a {seven}").notes == (
        "The model does not know “狗”, “猫”, “马”, “牛”, “羊” and 2 more.",
    )
    assert tokenizer.read("a " + "x" * 120).notes == (
        "The model does not know “" + "x" * 29 + "…”.",
    )


def test_words_past_its_limit_are_counted(tokenizer):
    """24 tokens with [CLS] and [SEP]; a word counts if it is read to its end."""
    text = " ".join(["dog"] * 41)
    read = tokenizer.read(text)
    assert (read.words, read.words_read, read.complete) == (41, 22, False)
    assert read.notes == ("Only the first 22 of 41 words were read.",)
    assert tokenizer.read(" ".join(["dog"] * 22)).notes == ()
    # Punctuation takes room and is no word: 11 times "dog ,".
    assert tokenizer.read("dog, " * 30).notes == ("Only the first 11 of 30 words were read.",)
    # The 22nd word has two tokens, of which one is read.
    assert tokenizer.read("dog " * 21 + "photographically").words_read == 21
    assert tokenizer.read("dog " * 22 + "!!!").notes == ()
    assert tokenizer.read("-".join("abcdefghijklmnopqrstuvwxyz")).notes == (
        "Only the beginning of “a-b-c-d-e-f-g-h-i-j-k-l-m-n-o…” was read.",
    )
    assert tokenizer.with_length(40).read(text).words_read == 38


def test_both_are_said(tokenizer):
    read = tokenizer.read("dog " * 20 + "ракета " + "cat " * 9)
    assert read.unknown_words == ("ракета",)  # of which two letters are read
    assert read.notes == (
        "Only the first 20 of 30 words were read.",
        "The model does not know “ракета”.",
    )
    # What comes after the limit is not looked at.
    assert tokenizer.read("dog " * 30 + "狗").unknown_words == ()


def test_reading_counts_what_is_encoded(tokenizer):
    for text in ("a dog runs", "dog " * 30, "狗 a dog"):
        ids, mask = tokenizer([text])
        again, _ = tokenizer([text])
        assert tokenizer.read(text).words_read <= int(mask.sum()) - 2
        assert ids.tolist() == again.tolist()  # reading has changed nothing


def test_a_vocabulary_with_words_of_a_script_reads_it(tmp_path: Path):
    words = [f"{first}{second}" for first in "абвгдежзиклмнопрстуф" for second in "абвг" * 15]
    renamed = text_tokenizer().to_str()
    vocabulary = ", ".join(f'"{word}{i}а": {100 + i}' for i, word in enumerate(words))
    renamed = renamed.replace('"dog"', f'"собака": 99, {vocabulary}, "dog"')
    (tmp_path / "tokenizer.json").write_text(renamed)
    tokenizer = TextTokenizer(tmp_path, 16)
    assert tokenizer.read("собака").known_words == 1
    assert tokenizer.read("кошка").unknown_words == ("кошка",)
