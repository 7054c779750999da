"""Reading shards: what is joined, what is refused, and that nothing is lost unseen."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from train.shards import ShardError, ShardReport, find_shards, iter_samples


def write_tar(path: Path, files: list[tuple[str, bytes | dict]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            data = json.dumps(content).encode() if isinstance(content, dict) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def captioned(image_id: str, *captions: str) -> dict:
    return {"image_id": image_id, "captions": list(captions)}


def test_samples_come_in_order_with_all_they_hold(tmp_path):
    question = {"question": "what is it", "answers": ["a dog", "dog"], "answer_type": "other"}
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("b.jpg", b"photo b"),
            ("b.json", captioned("b-id", "one", "two")),
            ("sub/a.png", b"photo a"),
            ("sub/a.json", {"qa": [question]}),
        ],
    )
    first, second = iter_samples(path)
    assert (first.image_id, first.image) == ("b-id", b"photo b")
    assert (first.captions, first.qa) == (["one", "two"], [])
    assert (second.image_id, second.image) == ("sub/a", b"photo a")
    assert (second.captions, second.qa) == ([], [question])


def test_files_that_stand_apart_are_joined(tmp_path):
    names = ("x", "y", "z")
    files = [(f"{n}.jpg", n.encode()) for n in names]
    files += [(f"{n}.json", captioned(n, f"caption of {n}")) for n in reversed(names)]
    samples = list(iter_samples(write_tar(tmp_path / "a.tar", files)))
    assert [(s.image, s.captions) for s in samples] == [
        (n.encode(), [f"caption of {n}"]) for n in names
    ]


def test_text_alone_leaves_the_photo_unread(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"x"), ("x.json", captioned("x", "one"))])
    assert [s.image for s in iter_samples(path, with_image=False)] == [None]


BROKEN = {
    "it has no json file": [("x.jpg", b"x")],
    "it has no photo": [("x.json", captioned("x", "one"))],
    "it has 2 photos": [("x.jpg", b"x"), ("x.png", b"x"), ("x.json", captioned("x", "one"))],
    "its photo is empty": [("x.jpg", b""), ("x.json", captioned("x", "one"))],
    "its json does not parse": [("x.jpg", b"x"), ("x.json", b'{"captions": ["cut')],
    "its json is not an object": [("x.jpg", b"x"), ("x.json", b"[]")],
    'its "captions" are not': [("x.jpg", b"x"), ("x.json", {"captions": "one"})],
    'its "captions" are not a list of non-empty': [
        ("x.jpg", b"x"),
        ("x.json", captioned("x", " ")),
    ],
    'its "captions" are not a list': [("x.jpg", b"x"), ("x.json", captioned("x", "cut \ud83d"))],
    'its "qa" is not': [("x.jpg", b"x"), ("x.json", {"qa": [{"question": "what"}]})],
    "it has neither captions nor qa": [("x.jpg", b"x"), ("x.json", captioned("x"))],
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_sample_is_counted_or_ends_the_pass(tmp_path, reason):
    good = [("good.jpg", b"g"), ("good.json", captioned("good", "fine"))]
    path = write_tar(tmp_path / "a.tar", BROKEN[reason] + good)

    report = ShardReport()
    assert [s.image_id for s in iter_samples(path, report=report)] == ["good"]
    assert report.samples == 1
    assert [where for where, _ in report.broken] == [f"{path}:x"]
    assert report.broken[0][1].startswith(reason)
    assert "1 left out" in report.describe() and reason in report.describe()

    with pytest.raises(ShardError, match=r"Sample x of .*a\.tar is broken"):
        list(iter_samples(path))


def test_shards_without_any_good_sample_are_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"x")])
    with pytest.raises(ShardError, match="No usable sample"):
        list(iter_samples(path, report=ShardReport()))


@pytest.mark.parametrize("where", ["between samples", "in a header", "in a photo"])
def test_a_tar_cut_off_is_noticed(tmp_path, where):
    files: list = []
    for n in range(5):
        files += [(f"{n}.jpg", b"p" * 2000), (f"{n}.json", captioned(str(n), "one"))]
    path = write_tar(tmp_path / "a.tar", files)
    with tarfile.open(path) as tar:
        member = tar.getmember("3.jpg")
    ends = {
        "between samples": member.offset,
        "in a header": member.offset + 100,
        "in a photo": member.offset_data + 700,
    }
    path.write_bytes(path.read_bytes()[: ends[where]])
    with pytest.raises(ShardError, match=r"Cannot read .*a\.tar"):
        list(iter_samples(path, report=ShardReport()))


def test_a_damaged_header_does_not_end_a_shard_early(tmp_path):
    files = [(f"{n}.jpg", b"p") for n in range(4)]
    path = write_tar(tmp_path / "a.tar", files)
    with tarfile.open(path) as tar:
        at = tar.getmember("2.jpg").offset
    data = bytearray(path.read_bytes())
    data[at : at + 60] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(ShardError, match="damaged or cut off after 2 samples"):
        list(iter_samples(path, report=ShardReport()))


def test_every_way_to_name_shards(tmp_path):
    names = [f"t-{n:03}.tar" for n in range(8, 12)] + ["dev.tar"]
    for name in names:
        (tmp_path / name).touch()

    def found(source):
        return [path.name for path in find_shards(source)]

    four = names[:4]
    assert found(tmp_path / "dev.tar") == ["dev.tar"]
    assert found(f"{tmp_path}/t-*.tar") == four
    assert found(f"{tmp_path}/t-{{008..011}}.tar") == four
    assert found(f"{tmp_path}/{{dev,t-009}}.tar") == ["dev.tar", "t-009.tar"]
    assert found(tmp_path) == ["dev.tar", *four]
    assert found(f"{tmp_path}/dev.tar, {tmp_path}/t-{{010..011}}.tar") == ["dev.tar", *names[2:4]]
    assert found([tmp_path / "t-011.tar", f"{tmp_path}/dev.tar"]) == ["t-011.tar", "dev.tar"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{tmp}/absent.tar", "No shard is at"),
        ("{tmp}/t-{{000..001}}.tar", r"t-001\.tar"),
        ("{tmp}/t-{{3..1}}.tar", "range"),
        ("{tmp}/t-000.tar,{tmp}/t-000.tar", "named twice"),
        (" , ", "No shards were named"),
    ],
)
def test_shards_that_are_not_there_are_named(tmp_path, source, says):
    (tmp_path / "t-000.tar").touch()
    with pytest.raises(ShardError, match=says):
        find_shards(source.format(tmp=tmp_path))
