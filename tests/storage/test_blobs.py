"""What blobs in a folder, or in a bucket, do beyond all blobs."""

from __future__ import annotations

import os
import stat
import sys
import threading
from hashlib import sha256

import pytest

import manent as mn
from manent.storage import Blobs, Parts
from tests.storage import s3

ABC = sha256(b"abc").hexdigest()


def test_files_are_for_their_owner_alone(tmp_path):
    blobs = Blobs(tmp_path / "new" / "blobs")
    parts = Parts(blobs)
    blobs.put([b"abc"])
    parts.append("upload", 0, [b"abd"])
    parts.append("finished", 0, [b"abe"])
    parts.finish("finished", sha256(b"abe").hexdigest())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_url_and_a_path_name_the_same_folder(tmp_path):
    folder = tmp_path / "a folder%"
    Blobs(folder).put([b"abc"])
    assert Blobs(str(folder)).size(ABC) == 3
    assert Blobs(folder.as_uri()).size(ABC) == 3


@pytest.mark.parametrize("url", ["https://example.org/bucket", "file://host/folder", "s3://bucket/a?versionId=1", "gs://bucket"])
def test_other_urls_are_refused(url):
    with pytest.raises(mn.InvalidInput, match="Expected a folder"):
        Blobs(url)


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mn.InvalidInput, match="Cannot keep blobs"):
        Blobs(tmp_path / "file" / "folder")


def test_a_damaged_file_is_found_and_can_be_put_again(tmp_path):
    blobs = Blobs(tmp_path)
    blobs.put([b"abc"])
    (tmp_path / ABC).write_bytes(b"abd")
    with pytest.raises(mn.ProtocolAbort, match="damaged"):
        blobs.verify(ABC)
    reading = blobs.read(ABC, chunk=1)
    assert next(reading) == b"a"
    (tmp_path / ABC).write_bytes(b"a")
    with pytest.raises(mn.ProtocolAbort, match="cut off"):
        list(reading)
    blobs.put([b"abc"], ABC)
    blobs.verify(ABC)


def test_a_blob_is_read_to_its_end_though_it_is_removed(tmp_path):
    blobs = Blobs(tmp_path)
    blobs.put([b"abc"])
    reading = blobs.read(ABC, chunk=1)
    blobs.remove(ABC)
    assert b"".join(reading) == b"abc"


def test_a_full_disk_is_an_abort_and_leaves_nothing(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path)
    full = OSError(28, "No space left on device")

    def fail(*_):
        raise full

    for step in ("fsync", "replace"):
        with monkeypatch.context() as changed:
            changed.setattr(os, step, fail)
            with pytest.raises(mn.ProtocolAbort, match="No space left"):
                blobs.put([b"abc"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_file_and_folder_are_on_the_disk_before_the_digest_is_returned(tmp_path, monkeypatch):
    """Each rename lies between the synchronisation of what is renamed and that of the folder that it is renamed into."""
    blobs, steps = Blobs(tmp_path), []
    parts, fsync, replace = Parts(blobs), os.fsync, os.replace
    parts.append("upload", 0, [b"abc"])

    def sync(handle):
        steps.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def rename(old, new):
        steps.append(("rename", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    for publish in (lambda: blobs.put([b"abc"]), lambda: parts.finish("upload", ABC)):
        steps.clear()
        publish()
        file = (tmp_path / ABC).stat().st_ino
        assert steps == [("sync", file), ("rename", file), ("sync", tmp_path.stat().st_ino)]
    steps.clear()
    parts.append("next", 0, [b"abc"])
    (upload,) = (tmp_path / "uploads").iterdir()
    assert steps == [("sync", upload.stat().st_ino), ("sync", (tmp_path / "uploads").stat().st_ino)]


def test_what_is_being_written_survives_another_process_that_opens_the_folder(tmp_path):
    blobs, opened = Blobs(tmp_path), []

    def chunks():
        yield b"ab"
        opened.append(Blobs(tmp_path))
        yield b"c"

    assert blobs.put(chunks()) == ABC
    assert opened[0].size(ABC) == 3


def test_a_late_append_does_not_reach_a_blob(tmp_path):
    """A connection that hung goes on after the upload was finished through another."""
    blobs = Blobs(tmp_path)
    parts, goes_on, hangs = Parts(blobs), threading.Event(), threading.Event()
    refused = []

    def chunks():
        yield b"abc"
        hangs.set()
        goes_on.wait(10)
        yield b"def"

    def send():
        try:
            parts.append("upload", 0, chunks())
        except mn.InvalidInput as error:
            refused.append(str(error))

    late = threading.Thread(target=send)
    late.start()
    hangs.wait(10)
    parts.finish("upload", ABC)
    goes_on.set()
    late.join()
    assert len(refused) == 1
    blobs.verify(ABC)


def test_an_append_that_waits_while_the_upload_is_finished_does_not_reach_the_blob(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path)
    parts, replace, refused = Parts(blobs), os.replace, []
    parts.append("upload", 0, [b"abc"])

    def send():
        try:
            parts.append("upload", 3, [b"def"])
        except mn.InvalidInput as error:
            refused.append(str(error))

    late = threading.Thread(target=send)

    def rename(old, new):
        late.start()
        late.join(0.2)  # it has opened the file by its old name
        replace(old, new)

    monkeypatch.setattr(os, "replace", rename)
    parts.finish("upload", ABC)
    late.join()
    assert len(refused) == 1
    blobs.verify(ABC)


def test_without_obstore_a_bucket_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(mn.MissingExtra, match=r"manent\[server\]"):
        Blobs("s3://bucket")


def test_a_bucket_that_cannot_be_reached_is_an_abort(monkeypatch):
    pytest.importorskip("obstore")
    from manent.storage import bucket

    with s3.served() as (address, _, _):
        values = {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        for name, value in {**values, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket, "_RETRIES", 0)
    with pytest.raises(mn.ProtocolAbort, match="s3://bucket"):
        Blobs("s3://bucket").put([b"abc"])
