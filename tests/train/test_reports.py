"""Reports: written whole, traceable to a commit, free of a machine's folders."""

import json
import os
import subprocess

import pytest

from blip2.errors import UserError
from train.reports import check_output, code_version, describe_shards, shorten, write_report


def test_an_output_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(UserError, match="Cannot write"):
        check_output(tmp_path / "file" / "report.json")
    check_output(tmp_path / "new" / "report.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_report_names_files_that_are_not_utf8(tmp_path):
    latin = os.fsdecode(b"caf\xe9.tar")
    (tmp_path / latin).write_bytes(b"shard")
    report = {"shards": describe_shards([str(tmp_path / latin)]), "left_out": [{latin: "torn"}]}
    write_report(tmp_path / "report.json", report)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["shards"][0]["name"].endswith(r"/caf\xe9.tar")
    assert written["left_out"] == [{r"caf\xe9.tar": "torn"}]


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_report(path, {"figure": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_report(path, {"figure": float("nan")})

    with path.open() as reader:  # a reader in the middle of the old report keeps the old one
        write_report(path, {"figure": 2})
        assert json.load(reader) == {"figure": 1}

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, {"figure": 3})
    assert json.loads(path.read_text()) == {"figure": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr("train.reports.__file__", str(tmp_path / "train" / "reports.py"))
    (tmp_path / "train").mkdir()
    assert code_version() is None
    git("init")
    (tmp_path / "code.py").write_text("one")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert code_version() == commit and len(commit) == 40
    (tmp_path / "code.py").write_text("two")
    assert code_version() == commit + "+changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() is None


def test_paths_lose_the_folders_of_a_machine():
    assert shorten("/home/me/data/dev.tar,/home/me/data/b.tar") == "data/dev.tar,data/b.tar"
    assert shorten("--data=/home/me/data/t-{00..05}.tar") == "--data=data/t-{00..05}.tar"
    unchanged = ("mini", "some/where/dev.tar", "Salesforce/blip2-opt-2.7b", "--model")
    assert [shorten(text) for text in unchanged] == list(unchanged)
