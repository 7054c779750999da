"""Streamed shards: the same photos at the same step whatever came before, by file and by URL."""

import http.server
import io
import json
import tarfile
import threading
from collections import Counter
from functools import partial

import pytest
from PIL import Image

from blip2.errors import UserError
from tests.tiny import Cells
from train.parts import Part
from train.stream import StreamedPhotos, fetch

SHARDS, EACH, BATCH = 6, 10, 4


def write_shard(path, number, photos=EACH, damaged=()):
    with tarfile.open(path, "w") as tar:
        for photo in range(photos):
            file = io.BytesIO()
            Image.new("RGB", (24, 24), (number * 40, photo * 20, 0)).save(file, "PNG")
            name = f"s{number}p{photo}"
            image = b"no photo" if photo in damaged else file.getvalue()
            text = {"image_id": name, "captions": [f"{name} {turn}" for turn in "abc"]}
            for suffix, data in (("png", image), ("json", json.dumps(text).encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    for number in range(SHARDS):
        write_shard(tmp_path / f"train-{number}.tar", number)
    return tmp_path


@pytest.fixture
def server(folder):
    """The folder by HTTP; says what was asked for, and may fail first."""
    asked, failing = [], []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if failing:
                failing.pop()
                return self.send_error(503)
            return super().do_GET()

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked, failing
    httpd.shutdown()


def stream(source, pool=2, **settings):
    return StreamedPhotos(str(source), Cells(), pool, **settings)


def names(photos, steps, part=None):
    return [[c.split()[0] for c in photos.batch_at(step, BATCH, part).captions] for step in steps]


def test_a_pass_takes_each_photo_once_shards_mixed(folder):
    photos = stream(folder)
    assert photos.steps_per_window(BATCH) == 5 and photos.steps_per_epoch(BATCH) == 15
    seen = [name for batch in names(photos, range(15)) for name in batch]
    assert set(Counter(seen).values()) == {1} and len(seen) == SHARDS * EACH
    window = [name[:2] for batch in names(photos, range(5)) for name in batch]
    assert len(set(window)) == 2 and window != sorted(window)  # two shards, shuffled together
    second = [name for batch in names(photos, range(15, 30)) for name in batch]
    assert set(second) == set(seen) and second != seen
    # Captions take turns from window to window.
    first, later = photos.batch_at(0, BATCH).captions, photos.batch_at(15, BATCH).captions
    assert {caption[-1] for caption in first + later} > {"a"}


def test_a_step_is_the_same_wherever_a_run_begins(folder):
    whole = stream(folder, views=2)
    batches = [whole.batches_at(step, BATCH, Part()) for step in range(12)]
    for step in (11, 7, 3):
        again = stream(folder, views=2).batches_at(step, BATCH, Part())[0]
        assert again.captions == batches[step][0].captions
        assert again.features.equal(batches[step][0].features)
    assert names(stream(folder, seed=1), range(3)) != names(whole, range(3))


def test_parts_read_shards_of_their_own(folder):
    photos = stream(folder)
    seen = [
        {name for batch in names(photos, range(5), Part(number, 2)) for name in batch}
        for number in range(2)
    ]
    assert [len({name[:2] for name in part}) for part in seen] == [1, 1]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 20
    turns = photos.batches_at(0, BATCH, Part(0, 2))
    assert [len(batch.captions) for batch in turns] == [2, 2]
    with pytest.raises(UserError, match="pool of 2 shards can't be shared by 4 parts"):
        photos.batch_at(0, BATCH, Part(0, 4))


def test_resampled_shards_follow_their_weights(folder):
    (folder / "rare").mkdir()
    (folder / "train-0.tar").rename(folder / "rare" / "train-0.tar")
    source = f"0.5x {folder}/rare, 2x {folder}"
    photos = stream(source, pool=1, resample=True)
    drawn = Counter(photos._shard(position).rpartition("/")[2] for position in range(4000))
    expected = {"train-0.tar": 0.5 / 10.5} | {f"train-{n}.tar": 2 / 10.5 for n in range(1, 6)}
    for name, share in expected.items():
        assert drawn[name] / 4000 == pytest.approx(share, abs=0.025)
    assert names(photos, range(8)) == names(stream(source, pool=1, resample=True), range(8))
    with pytest.raises(UserError, match="Weights of sources need resample: true"):
        stream(source, pool=1)


def test_shards_of_other_sizes_and_broken_photos(tmp_path, capsys):
    write_shard(tmp_path / "train-0.tar", 0, damaged=(3, 5))
    write_shard(tmp_path / "train-1.tar", 1, photos=6)
    photos = stream(tmp_path)
    seen = Counter(name for batch in names(photos, range(5)) for name in batch)
    assert sum(seen.values()) == 20  # as many as two shards like the first would have
    assert not {"s0p3", "s0p5"} & set(seen) and len(seen) == 14
    said = capsys.readouterr().out
    assert "left out s0p3: " in said and "left out s0p5: " in said


def test_shards_by_url(folder, server):
    address, asked, failing = server
    local = names(stream(folder), range(15))
    photos = stream(f"{address}/train-{{0..5}}.tar")
    assert asked == ["/train-0.tar"]  # to see how large a shard is
    # Names decide the order, and they are the same.
    assert names(photos, range(15)) == local
    assert set(asked) == {f"/train-{number}.tar" for number in range(6)}
    failing.append(503)
    assert names(stream(f"{address}/train-{{0..5}}.tar"), range(2)) == local[:2]


def test_a_shard_that_can_not_be_had(folder, server, monkeypatch):
    address, asked, _ = server
    monkeypatch.setattr("train.stream.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"none\.tar can't be fetched \(Client error '404"):
        stream(f"{address}/none.tar", pool=1)
    assert asked.count("/none.tar") == 3
    whole = (folder / "train-0.tar").read_bytes()
    (folder / "train-0.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged or cut off|unexpected end"):
        stream(f"{address}/train-0.tar", pool=1)


@pytest.mark.parametrize(
    ("source", "pool", "said"),
    [
        ("{}", 7, "There are 6 shards, fewer than a pool of 7"),
        ("{}/nowhere.tar", 1, "No shard is at"),
        ("{}/captions.json@{}", 1, "is no set of shards; make some with train.prepare"),
    ],
)
def test_mistakes_are_one_sentence(folder, source, pool, said):
    with pytest.raises(UserError, match=said):
        stream(source.format(folder, folder), pool)
    with pytest.raises(UserError, match="about 10 photos, fewer than one batch of 11"):
        stream(folder, 1).batch_at(0, 11)


def test_what_was_fetched_goes_with_its_window(server, folder, tmp_path):
    address, _, _ = server
    photos = stream(f"{address}/train-{{0..5}}.tar")
    for step in range(30):
        photos.batch_at(step, BATCH)
        kept = list(folder.__class__(photos._folder.name).glob("*/*.tar"))
        assert len(kept) <= 9  # three windows of two, the next, and the first shard
    assert fetch(str(folder / "train-1.tar"), tmp_path / "x") == folder / "train-1.tar"
