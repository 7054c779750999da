import re
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from blip2.errors import UserError
from demo.adding import MAX_FILES, add_photos, report_html
from demo.finding import Filters, find, find_similar
from demo.library import Library
from demo.models import Models
from demo.search import chosen_photo
from demo.visitors import Visitor
from demo.words import order_words
from index import PhotoIndex

HERE = Visitor()


def search(library, text, count=12, rerank=False, visitor=HERE, **filters):
    return find(library, visitor, text, count, rerank, Filters(**filters))


def names(items):
    return [caption.split(" · ")[1] for _, caption in items]


def still(share: float, words: str) -> None:
    """Progress that nobody looks at."""


def test_photos_come_best_first_with_scores(library):
    items, line = search(library, " blue ", 12, False)
    scores = [float(caption.split(" · ")[0]) for _, caption in items]
    assert set(names(items)[:2]) == {"half.png", "blue.png"} and names(items)[2] == "red.png"
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 > scores[2]
    assert "Best 3 of 3 photos for “blue”" in line


def test_so_many_photos_are_shown_as_asked_for(library):
    assert len(search(library, "red", 2, False)[0]) == 2


def test_reranked_results_carry_probabilities(library):
    (_, caption), *_ = search(library, "red", 12, True)[0]
    assert caption == "100% match · red.png"


def test_only_thumbnails_leave_the_library(library, tmp_path):
    items, _ = search(library, "red", 12, False)
    assert {Path(path).parent for path, _ in items} == {tmp_path / "received" / "thumbnails"}


@pytest.mark.parametrize("text", ["", "   ", None])
def test_an_empty_search_is_refused(library, text):
    with pytest.raises(gr.Error, match="search text is empty"):
        search(library, text, 12, False)


def test_a_long_search_is_refused(library):
    with pytest.raises(gr.Error, match="search text has 10,000 characters"):
        search(library, "z" * 10_000, 12, False)


@pytest.mark.parametrize("count", [0, -1, 10**9, None, "12", float("nan"), True])
def test_an_odd_number_of_photos_is_refused(library, count):
    with pytest.raises(gr.Error, match="number of photos to show"):
        search(library, "red", count)


def test_a_deleted_photo_becomes_a_sentence(library, photos):
    photos[1].unlink()
    items, line = search(library, "red", 12, False)
    assert names(items) == ["half.png", "blue.png"]
    assert "red.png matched too but was deleted or damaged since the library was made." in line


def test_an_empty_library_says_so(tmp_path, retriever):
    index = PhotoIndex.create(tmp_path / "empty", retriever)
    items, line = search(Library(index, tmp_path / "empty", tmp_path / "t"), "red")
    assert items == []
    assert "The library is empty; add photos below." in line


def test_adding_reports_progress_and_each_refused_file(library, sent):
    steps = []
    uploads = [sent("sea.png", "green"), sent("notes.jpg", b"words"), sent("again.png", "red")]
    report = add_photos(library, HERE, uploads, lambda *step: steps.append(step))
    assert "1 photo added. 1 was in the library already. 1 was refused:" in report
    assert "<b>notes.jpg</b> The given photo is not in a format" in report
    assert len(library) == 4
    assert steps[0] == (0, "Opening 3 photos")
    assert steps[-1] == (1.0, "Embedding 3 photos")
    assert [share for share, _ in steps] == sorted(share for share, _ in steps)


def test_too_many_files_are_refused_at_once_and_go_with_who_sent_them(library, sent):
    visitor, upload = Visitor(), sent("a.png")
    with pytest.raises(gr.Error):
        add_photos(library, visitor, [upload] * (MAX_FILES + 1), still)
    assert visitor.files == {Path(upload["path"])}
    with pytest.raises(gr.Error, match=f"add at most {MAX_FILES} at once"):
        add_photos(library, HERE, [sent("a.png")] * (MAX_FILES + 1), still)
    assert len(library) == 3


@pytest.mark.parametrize("uploads", [None, [], [None], ["/etc/passwd"]])
def test_what_is_no_upload_is_refused(library, uploads):
    with pytest.raises(gr.Error, match=r"choose one first|upload it as a file"):
        add_photos(library, HERE, uploads, still)


def test_file_names_stay_text():
    report = report_html(0, 0, [("<img src=x onerror=alert(1)>.jpg", "It is <b>bad</b>.")])
    assert "<img" not in report and "&lt;img src=x" in report
    assert "<b>bad" not in report


def test_what_a_visitor_added_goes_with_them(library, sent):
    visitor, uploads = Visitor(), [sent("sea.png", "green"), sent("notes.jpg", b"words")]
    add_photos(library, visitor, uploads, still)
    assert visitor.files == {Path(upload["path"]) for upload in uploads}


def test_private_photos_are_found_by_who_added_them(library, sent):
    ann, bob = Visitor(uploads=library.visit()), Visitor(uploads=library.visit())
    add_photos(library, ann, [sent("sea.png", "green")], still)
    items, line = search(library, "green", visitor=ann)
    assert names(items)[0] == "sea.jpg" and "of 4 photos" in line
    items, line = search(library, "green", visitor=bob)
    assert "sea.jpg" not in names(items) and "of 3 photos" in line


def test_doubt_is_said(library):
    _, line = search(library, "yellow")
    assert "No good match: the model doubts that any photo here shows this" in line
    assert "No good match" not in search(library, "red")[1]


@pytest.mark.parametrize("text", ["狗", "🐶", "?!"])
def test_a_text_without_a_known_word_finds_nothing_and_says_why(library, text):
    items, line = search(library, text)
    assert items == []
    assert line == '<p role="alert">colours knows no word of this; it reads English.</p>'
    with pytest.raises(gr.Error, match="search text is empty"):
        search(library, "\u200b")


def test_what_of_a_text_was_not_read_is_said(library):
    items, line = search(library, "red 狗 <b>")
    assert len(items) == 3
    assert (
        '<p class="doubt" role="status">The model does not know “狗” and “&lt;b&gt;”.</p>' in line
    )
    assert "does not know" not in search(library, "red")[1]


def test_filters_narrow_a_search_and_say_when_nothing_is_left(library):
    items, _ = search(library, "red", name="b*")
    assert names(items) == ["blue.png"]
    items, line = search(library, "red", name="b*", until="1999-12-31")
    assert items == [] and "No photo passes the filters; loosen or clear them." in line
    with pytest.raises(gr.Error, match=r"31\.12\.2024"):
        search(library, "red", since="31.12.2024")


def test_near_duplicates_are_one_and_named(library, photos, tmp_path):
    """The same picture saved as another file, smaller."""
    with Image.open(photos[1]) as red:
        red.resize((12, 12)).save(tmp_path / "again.bmp")
    library.add([(tmp_path / "again.bmp", "again.bmp")])
    captions = [caption for _, caption in search(library, "red")[0]]
    assert len(captions) == 3 and sum(", 1 more like it · " in caption for caption in captions) == 1
    unfolded = [caption for _, caption in search(library, "red", fold=False)[0]]
    assert len(unfolded) == 4 and not any("more like it" in caption for caption in unfolded)


def test_photos_like_a_result_come_without_it(library, photos):
    shown, _ = search(library, "red", rerank=True)[0][0]
    items, line = find_similar(library, HERE, {"path": shown}, 12, Filters())
    assert names(items) == ["half.png", "blue.png"]
    assert "Best 2 of 3 photos like this one" in line


def test_photos_like_one_that_was_sent(library, sent):
    items, _ = find_similar(library, HERE, sent("mine.png", "blue"), 2, Filters())
    assert set(names(items)) == {"blue.png", "half.png"}  # half of which is as blue
    with pytest.raises(gr.Error, match="choose one first"):
        find_similar(library, HERE, None, 2, Filters())


def test_a_result_is_chosen_by_its_thumbnail_and_by_nothing_else(library, photos):
    shown, _ = search(library, "red", rerank=True)[0][0]
    assert chosen_photo(library, {"image": {"path": shown}}) == (Path(shown), "red.png")
    for forged in (str(photos[0]), "/etc/passwd", None, ["x"]):
        with pytest.raises(UserError, match="no longer here; search again"):
            chosen_photo(library, {"image": {"path": forged}})


def test_texts_are_ordered_by_how_well_they_fit(blip2, retriever, sent):
    models = Models(blip2, retriever)
    ranked = order_words(models, HERE, sent("a.png", "blue"), " red \n\nblue\ngreen\nblue\n")
    assert ranked.count("<li>") == 3
    shares = [int(share) for share in re.findall(r'score">(\d+)%', ranked)]
    assert shares == sorted(shares, reverse=True) and 99 <= sum(shares) <= 101
    assert ranked.index(">blue<") < min(ranked.index(">red<"), ranked.index(">green<"))
    assert "does not know" not in ranked
    noted = order_words(models, HERE, sent("a.png", "blue"), "red 狗\nblue")
    assert noted.startswith(
        '<p class="doubt" role="status">“red 狗”: The model does not know “狗”.</p><ol>'
    )
    refused = order_words(models, HERE, sent("a.png", "blue"), "red\n狗")
    assert refused == (
        '<p role="alert">“狗” cannot be compared: colours knows no word of this; it reads English.'
        "</p>"
    )
    with pytest.raises(gr.Error, match="list of texts is empty"):
        order_words(models, HERE, sent("a.png"), "  ")
    with pytest.raises(gr.Error, match="give at most 48"):
        order_words(models, HERE, sent("a.png"), "\n".join(map(str, range(49))))
