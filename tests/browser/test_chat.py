"""The Chat tab in a real browser, on the real mini."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import ANSWER, photograph, pick_sample, show_tab, words_of


def answers(page: Page):
    return page.locator("#chat-history .bot.message")


def questions(page: Page):
    return page.locator("#chat-history .user.message")


def read_answer(page: Page, turn: int) -> str:
    """Wait for the answer of a turn, from 1, to its end."""
    expect(answers(page)).to_have_count(turn, timeout=ANSWER)
    expect(answers(page).last).not_to_have_text("...", timeout=ANSWER)
    expect(page.locator("#chat-stop")).to_be_disabled(timeout=ANSWER)
    return answers(page).last.inner_text().strip()


def ask(page: Page, question: str, turn: int) -> str:
    page.fill("#chat-question textarea", question)
    page.click("#chat-send")
    return read_answer(page, turn)


def test_a_conversation(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    show_tab(page, "Chat")
    photograph(page, "chat-empty-1440-light")
    pick_sample(page, 1)
    page.get_by_role("button", name="What is in this photo?").click()
    assert words_of(read_answer(page, 1))
    assert words_of(ask(page, "What colour is the suit?", 2))
    assert questions(page).all_inner_texts()[1].strip() == "What colour is the suit?"
    photograph(page, "chat-1440-light")

    page.locator("#chat-history").get_by_role("button", name="Retry").click()
    page.wait_for_timeout(300)
    assert words_of(read_answer(page, 2))
    expect(questions(page)).to_have_count(2)

    page.locator("#chat-history").get_by_role("button", name="Edit").first.click()
    box = page.locator("#chat-history textarea")
    box.fill("Is there a helmet?")
    photograph(page, "chat-editing-1440-light")
    page.locator("#chat-history").get_by_role("button", name="Submit").click()
    expect(questions(page)).to_have_count(1, timeout=ANSWER)
    assert words_of(read_answer(page, 1))
    assert questions(page).first.inner_text().strip() == "Is there a helmet?"

    with page.expect_download() as downloading:
        page.click("#chat-save")
    downloading.value.save_as(tmp_path / "said.txt")
    said = (tmp_path / "said.txt").read_text()
    assert downloading.value.suggested_filename == "conversation.txt"
    answer = answers(page).first.inner_text().strip()
    assert said == f"You: Is there a helmet?\n\nModel: {answer}\n"

    page.click("#chat-clear")
    expect(answers(page)).to_have_count(0)
    ask(page, "Who is <b>this</b>?", 1)
    assert questions(page).first.inner_text().strip() == "Who is <b>this</b>?"
    pick_sample(page, 2)  # another photo, another conversation
    expect(answers(page)).to_have_count(0)


def test_an_answer_can_be_stopped(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Chat")
    pick_sample(page, 4)
    page.fill("#chat-question textarea", "Tell a long story about this photo.")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(1)
    page.click("#chat-stop")
    expect(page.locator("#chat-stop")).to_be_disabled()
    page.wait_for_timeout(1000)
    expect(answers(page)).to_have_count(1)
    expect(answers(page).first).not_to_have_text("...")
    photograph(page, "chat-stopped-1440-light")
    assert words_of(ask(page, "What else?", 1))
    assert questions(page).all_inner_texts() == ["What else?"]


def test_a_long_conversation_says_what_it_left_out(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Chat")
    pick_sample(page, 2)
    status = page.locator("#chat-status")
    ask(page, "⠿" * 1370, 1)  # three tokens each, of the 8,192 that it can read
    assert status.inner_text().strip() == ""
    ask(page, "⠟" * 1370, 2)
    assert "longer than the model can read at once" in status.inner_text()
    photograph(page, "chat-long-1440-light")


def test_visitors_have_conversations_of_their_own(visit: Callable[..., Page]) -> None:
    ann, bob = visit(), visit()
    for page, question in ((ann, "Ann asks?"), (bob, "Bob asks?")):
        show_tab(page, "Chat")
        pick_sample(page, 0)
        ask(page, question, 1)
    assert questions(ann).all_inner_texts() == ["Ann asks?"]
    assert questions(bob).all_inner_texts() == ["Bob asks?"]
