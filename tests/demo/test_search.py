from pathlib import Path

import gradio as gr
import pytest

from demo.library import Library
from demo.search import MAX_FILES, add_photos, find, report_html
from index import PhotoIndex


def still(share: float, words: str) -> None:
    """Progress that nobody looks at."""


def test_photos_come_best_first_with_scores(library):
    items, line = find(library, " blue ", 12, False)
    names = [caption.split(" · ")[1] for _, caption in items]
    scores = [float(caption.split(" · ")[0]) for _, caption in items]
    assert set(names[:2]) == {"half.png", "blue.png"} and names[2] == "red.png"
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 > scores[2]
    assert "Best 3 of 3 photos for “blue”" in line


def test_so_many_photos_are_shown_as_asked_for(library):
    assert len(find(library, "red", 2, False)[0]) == 2


def test_reranked_results_carry_probabilities(library):
    (_, caption), *_ = find(library, "red", 12, True)[0]
    assert caption == "100% match · red.png"


def test_only_thumbnails_leave_the_library(library, tmp_path):
    items, _ = find(library, "red", 12, False)
    assert {Path(path).parent for path, _ in items} == {tmp_path / "thumbnails"}


@pytest.mark.parametrize("text", ["", "   ", None])
def test_an_empty_search_is_refused(library, text):
    with pytest.raises(gr.Error, match="search text is empty"):
        find(library, text, 12, False)


def test_a_long_search_is_refused(library):
    with pytest.raises(gr.Error, match="search text has 10,000 characters"):
        find(library, "z" * 10_000, 12, False)


@pytest.mark.parametrize("count", [0, -1, 10**9, None, "12", float("nan"), True])
def test_an_odd_number_of_photos_is_refused(library, count):
    with pytest.raises(gr.Error, match="The number of photos to show"):
        find(library, "red", count, False)


def test_a_deleted_photo_becomes_a_sentence(library, photos):
    photos[1].unlink()
    items, line = find(library, "red", 12, False)
    assert [caption.split(" · ")[1] for _, caption in items] == ["half.png", "blue.png"]
    assert "red.png matched too but was deleted or damaged since the library was made." in line


def test_an_empty_library_says_so(tmp_path, retriever):
    index = PhotoIndex.create(tmp_path / "empty", retriever)
    items, line = find(Library(index, tmp_path / "empty", tmp_path / "t"), "red", 12, False)
    assert items == []
    assert "The library is empty; add photos below." in line


def test_adding_reports_progress_and_each_refused_file(library, sent):
    steps = []
    uploads = [sent("sea.png", "green"), sent("notes.jpg", b"words"), sent("again.png", "red")]
    report, size = add_photos(library, uploads, lambda *step: steps.append(step))
    assert "1 photo added. 1 was in the library already. 1 was refused:" in report
    assert "<b>notes.jpg</b> The given photo is not a picture" in report
    assert "4 photos in the library" in size
    assert steps[0] == (0, "Opening the photos")
    assert steps[-1] == (1.0, "2 of 2 photos")


def test_too_many_files_are_refused_at_once(library, sent):
    with pytest.raises(gr.Error, match=f"add at most {MAX_FILES} at once"):
        add_photos(library, [sent("a.png")] * (MAX_FILES + 1), still)
    assert len(library) == 3


@pytest.mark.parametrize("uploads", [None, [], [None], ["/etc/passwd"]])
def test_what_is_no_upload_is_refused(library, uploads):
    with pytest.raises(gr.Error, match=r"choose one first|upload it as a file"):
        add_photos(library, uploads, still)


def test_file_names_stay_text():
    report = report_html(0, 0, [("<img src=x onerror=alert(1)>.jpg", "It is <b>bad</b>.")])
    assert "<img" not in report and "&lt;img src=x" in report
    assert "<b>bad" not in report
