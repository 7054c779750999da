"""What Hugging Face Spaces reads of this repository."""

import re
import socket
from pathlib import Path

import pytest
import yaml

import app

ROOT = Path(app.__file__).parent


@pytest.fixture(scope="module")
def front_matter() -> dict:
    _, block, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(block)


def test_the_front_matter_names_what_is_here(front_matter):
    assert front_matter["sdk"] == "gradio"
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert front_matter["sdk_version"] == pinned[1], "Spaces would install another Gradio"
    assert (ROOT / front_matter["app_file"]).samefile(app.__file__)
    assert (ROOT / front_matter["thumbnail"]).is_file()
    assert front_matter["license"] == "apache-2.0"
    assert len(front_matter["short_description"]) <= 60
    assert {name.split("/")[0] for name in front_matter["models"]} == {"Salesforce"}


def test_on_spaces_visits_are_private_and_all_may_come(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert not app.is_private(app.parse([]))
    monkeypatch.setenv("SPACE_ID", "someone/blip2")
    assert app.is_private(app.parse([])) and app.parse([]).host == "0.0.0.0"
    assert not app.is_private(app.parse(["--no-private"]))


@pytest.mark.parametrize(
    ("flags", "private"),
    [
        ([], False),
        (["--host", "localhost"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", socket.gethostname()], True),
        (["--share"], True),
        (["--private"], True),
        (["--host", "0.0.0.0", "--no-private"], False),
    ],
)
def test_added_photos_are_private_where_others_may_come(monkeypatch, flags, private):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert app.is_private(app.parse(flags)) == private
