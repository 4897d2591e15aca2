"""S3 that fails half of the time: the same bytes, or one typed error, in bounded time."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.local.s3 import S3Server
from storage.dataset import Dataset
from storage.errors import ObjectChanged, Unavailable
from storage.index import load_index
from storage.objects import open_store
from storage.reader import read_samples
from storage.s3 import S3Store
from tests.storage.support.proxy import FaultyProxy, faulty_proxy

pytestmark = pytest.mark.waits

DATA = os.urandom(1 << 20)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(proxy: FaultyProxy, s3: S3Server, tmp_path: Path) -> S3Store:
    store = S3Store(s3.bucket, f"faults/{tmp_path.name}", read_seconds=1.0)
    store.write("x", DATA)
    return store


@pytest.fixture
def patient(store: S3Store) -> S3Store:
    """The same, which a busy machine does not make ask again."""
    return S3Store(store.bucket, store.prefix, read_seconds=60.0)


def once(*faults: str):
    """These faults one after the other, then none."""
    waiting = list(faults)
    return lambda: waiting.pop(0) if waiting else "ok"


@pytest.mark.parametrize("fault", ["reset", "short", "hang", "503", "500", "429"])
def test_a_fault_in_a_read_is_survived(store: S3Store, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = once(fault)
    assert store.read_range("x", 1000, 900_000) == DATA[1000:900_000]


@pytest.mark.parametrize("fault", ["reset", "short", "hang"])
def test_a_broken_body_is_resumed_where_it_broke(
    store: S3Store, patient: S3Store, proxy: FaultyProxy, fault: str
) -> None:
    reader = store if fault == "hang" else patient
    proxy.served.clear()
    proxy.faults = once(fault, fault)
    assert reader.read_range("x", 0, 1 << 20) == DATA
    starts = [int(r.removeprefix("bytes=").partition("-")[0]) for _, r, _ in proxy.served if r]
    assert starts == sorted(set(starts)), starts
    assert len(starts) == 3
    if fault != "reset":  # a reset may throw away what was under way
        halves = [0, 1 << 19, (1 << 19) + (1 << 18)]
        assert all(half - (128 << 10) < s <= half for s, half in zip(starts, halves, strict=True))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_whole_reads_and_writes_at_failure_rates(
    store: S3Store, proxy: FaultyProxy, rate: float
) -> None:
    draw = np.random.default_rng(1)
    kinds = ["reset", "short", "503", "500"]
    proxy.faults = lambda: str(draw.choice(kinds)) if draw.random() < rate else "ok"
    failures: list[Unavailable] = []
    for i in range(6):
        try:
            store.write(f"y{i}", DATA[:5000])
            assert store.read(f"y{i}") == DATA[:5000]
            assert store.read_range("x", i, 100_000) == DATA[i:100_000]
        except Unavailable as error:
            failures.append(error)
    assert len(failures) < (1 if rate == 0.1 else 4)


def test_nothing_but_failures_is_unavailable_in_bounded_time(
    store: S3Store, proxy: FaultyProxy
) -> None:
    for fault in ("reset", "503"):
        proxy.faults = lambda fault=fault: fault
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"faults/.*/x: "):
            store.read_range("x", 0, 1 << 20)
        assert time.monotonic() - started < 60


def test_an_object_that_is_replaced_while_it_is_read_is_noticed(
    patient: S3Store, proxy: FaultyProxy, s3: S3Server
) -> None:
    """Otherwise the halves of two versions would be one sample."""
    straight = S3Store(patient.bucket, patient.prefix)
    with s3.environment():
        assert straight.exists("x")  # past the proxy, for good

    def replace_then_continue() -> str:
        proxy.faults = replaced
        return "short"

    def replaced() -> str:
        proxy.faults = lambda: "ok"
        straight.write("x", bytes(1 << 20))
        return "ok"

    proxy.faults = replace_then_continue
    with pytest.raises(ObjectChanged, match="replaced while it was read"):
        patient.read_range("x", 0, 1 << 20)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_samples_are_never_fewer(
    proxy: FaultyProxy, digits: Dataset, s3: S3Server, tmp_path: Path, rate: float
) -> None:
    """All samples with their bytes, or an error of ours: whatever the connection does."""
    uri = s3.uri("faulty", tmp_path.name)
    for shard in digits.shards("val"):
        open_store(uri).upload(shard.name, f"{digits.uri}/{shard.name}")
    index = load_index(digits, "val")
    wanted = np.arange(len(index))
    plain = {r.request: r.data for r in read_samples(open_store(digits.uri), index, wanted)}
    draw = np.random.default_rng(0)
    proxy.faults = lambda: "short" if draw.random() < rate else "ok"
    try:
        found = {r.request: r.data for r in read_samples(open_store(uri), index, wanted)}
    except Unavailable:
        assert rate == 0.9
    else:
        assert found == plain
