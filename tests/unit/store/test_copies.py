"""Copies of a store: in a folder, which pyarrow reaches as it does object storage, and on S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.settings.addresses import object_storage
from orchestrator.store.copies import Copies
from orchestrator.store.leases import Leases
from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import EndRow

RECORD = b'{"record_id": "r0"}\n'
PACKAGES = b"torch==2\n"


def record_name(content: bytes = RECORD) -> str:
    return hashlib.sha256(content).hexdigest()[:32] + ".jsonl"


def filled(store: Path, *fingerprints: str) -> Path:
    """A store whose driver has ended trials, and is gone; returns its segment."""
    with Ledger.open(store) as ledger:
        for fingerprint in fingerprints:
            ledger.append(EndRow(fingerprint, "finished"))
    (store / "records").mkdir(exist_ok=True)
    (store / "records" / record_name()).write_bytes(RECORD)
    (store / "packages").mkdir(exist_ok=True)
    (store / "packages" / f"{hashlib.sha256(PACKAGES).hexdigest()[:16]}.txt").write_bytes(PACKAGES)
    return ledger.path


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "results"


def copies(store: Path, bucket: Path) -> Copies:
    return Copies(store, bucket.as_uri())


def test_other_store_goes_on_from_the_copies(tmp_path: Path, bucket: Path) -> None:
    filled(tmp_path / "a", "one", "two")
    filled(tmp_path / "b", "three")
    assert copies(tmp_path / "a", bucket).send() == 3  # segment, record, packages
    assert copies(tmp_path / "b", bucket).send() == 1  # its segment; the rest is there

    assert copies(tmp_path / "c", bucket).fetch() == 4

    assert Ledger.read(tmp_path / "c").settled() == {"one", "two", "three"}
    assert (tmp_path / "c" / "records" / record_name()).read_bytes() == RECORD
    assert copies(tmp_path / "c", bucket).fetch() == copies(tmp_path / "c", bucket).send() == 0


def test_segment_that_has_grown_is_copied_again_and_a_shorter_one_never_is(
    tmp_path: Path, bucket: Path
) -> None:
    segment = filled(tmp_path / "a", "one", "two")
    whole = segment.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    segment.write_bytes(first)
    copies(tmp_path / "a", bucket).send()
    copies(tmp_path / "b", bucket).fetch()
    segment.write_bytes(whole)

    assert copies(tmp_path / "a", bucket).send() == 1
    assert copies(tmp_path / "b", bucket).send() == 0  # holds the beginning alone
    assert (bucket / "ledger" / segment.name).read_bytes() == whole
    assert copies(tmp_path / "b", bucket).fetch() == 1
    assert (tmp_path / "b" / "ledger" / segment.name).read_bytes() == whole


def test_segment_of_another_living_driver_is_left_to_it(tmp_path: Path, bucket: Path) -> None:
    segment = filled(tmp_path, "one")
    leases = Leases(segment)
    leases.claim(["two"], 1, set)
    try:
        assert copies(tmp_path, bucket).send() == 2
        own = copies(tmp_path, bucket)
        own.begin(segment)
        assert own.close() == ""
        assert (bucket / "ledger" / segment.name).read_bytes() == segment.read_bytes()
        segment.write_bytes(b"")
        assert copies(tmp_path, bucket).fetch() == 0
    finally:
        leases.close()


def test_segment_is_sent_while_its_driver_goes_on(
    tmp_path: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr("orchestrator.store.copies.SEND_SECONDS", 0.01)
    with Ledger.open(tmp_path) as ledger:
        sender = copies(tmp_path, bucket)
        sender.begin(ledger.path)
        ledger.append(EndRow("one", "finished"))
        there = bucket / "ledger" / ledger.path.name
        deadline = time.monotonic() + 60
        while not there.exists() or there.read_bytes() != ledger.path.read_bytes():
            assert time.monotonic() < deadline, "waited in vain"
        assert sender.close() == ""


def test_copy_that_does_not_hold_what_its_name_says_is_left(tmp_path: Path, bucket: Path) -> None:
    filled(tmp_path / "a", "one")
    copies(tmp_path / "a", bucket).send()
    (bucket / "records" / record_name()).write_bytes(b"something else")
    copies(tmp_path / "b", bucket).fetch()
    assert list((tmp_path / "b" / "records").iterdir()) == []
    assert Ledger.read(tmp_path / "b").settled() == {"one"}


def test_nothing_but_results_goes_either_way(tmp_path: Path, bucket: Path) -> None:
    filled(tmp_path / "a", "one")
    store = tmp_path / "a"
    for name in ("ledger/x.lease", "ledger/leases.lock", "records/x.tmp", "mlflow.db"):
        (store / name).write_text("own")
    sent = copies(store, bucket).send()
    assert sent == len([path for path in bucket.rglob("*") if path.is_file()]) == 3

    for name in ("ledger/..jsonl", "ledger/.bashrc", "records/notes.txt", "packages/code.py"):
        (bucket / name).write_text("strange")
    (bucket / "ledger" / "20260101T000000Z-a-1-aaaaaaaa.jsonl").mkdir()
    assert copies(tmp_path / "b", bucket).fetch() == 3
    assert len([path for path in (tmp_path / "b").rglob("*") if path.is_file()]) == 3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a server that speaks S3."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        query = "region=us-east-1&scheme=http&endpoint_override={}:{}"
        where = "?" + query.format(*server.get_host_and_port())
        system, _ = fs.FileSystem.from_uri(f"s3://bucket{where}&allow_bucket_creation=true")
        system.create_dir("bucket")
        yield "s3://bucket/results" + where
    finally:
        server.stop()


def test_copies_on_s3(tmp_path: Path, s3: str) -> None:
    segment = filled(tmp_path / "a", "one")
    address = object_storage(s3)
    assert Copies(tmp_path / "a", address).send() == 3
    with segment.open("ab") as more:
        more.write(segment.read_bytes().replace(b"one", b"two"))
    assert Copies(tmp_path / "a", address).send() == 1
    assert Copies(tmp_path / "b", address).fetch() == 3
    assert Ledger.read(tmp_path / "b").settled() == {"one", "two"}
    assert (tmp_path / "b" / "records" / record_name()).read_bytes() == RECORD

    with pytest.raises(UsageError, match=r"^copies=s3://other/.*'other'"):
        Copies(tmp_path / "a", address.replace("bucket", "other", 1)).send()


def test_address_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "a", "one")
    (tmp_path / "file").write_text("not a folder")
    sender = copies(tmp_path / "a", tmp_path / "file" / "results")
    with pytest.raises(UsageError, match=r"^copies=file:///.*/file/results: "):
        sender.send()
    assert sender.close().startswith("copies=file:///")


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a/b",
        "gs://bucket",
        "file:///mnt/disk",
        "s3://bucket/a?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
    ],
)
def test_object_storage_when_an_address_is_one_then_it_comes_back(address: str) -> None:
    assert object_storage(address) == address
    assert object_storage("s3://bucket/a/") == "s3://bucket/a"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "results",
        "/mnt/disk",
        "file://disk",
        "http://host/x",
        "s3://",
        "s3:///x",
        "s3://bucket/x#y",
        "s3://bucket/x?secret_key=1",
        "gs://bucket/x?region=here",
    ],
)
def test_object_storage_when_an_address_is_none_then_says_what_is(address: str) -> None:
    with pytest.raises(ValueError, match="must be s3://bucket/folder"):
        object_storage(address)


@pytest.mark.parametrize("address", ["s3://KEY:secret@bucket/x", "s3://KEY@bucket/x"])
def test_object_storage_when_an_address_holds_a_key_then_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must not hold a key") as caught:
        object_storage(address)
    assert "KEY" not in str(caught.value).replace("ACCESS_KEY", "")
