"""Resume states on a directory and on S3: the newest by step, torn ones unseen, old ones gone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from cluster.local.s3 import S3Server
from pipelines.lineage.resume_states import (
    commit_state,
    damaged_states,
    drop_states,
    newest_state,
    open_state,
    place_of_state,
    save_state,
)
from storage.errors import BadInput, CorruptWeights, Unavailable
from storage.objects import open_store
from storage.pieces import open_pieces, write_part
from storage.uri import join
from tests.storage.support.full_disk import full_disk


@pytest.fixture(params=["directory", "s3"])
def attempt(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server):
    if request.param == "directory":
        yield str(tmp_path / "attempt")
        return
    with s3_server.environment():
        yield s3_server.uri("states", tmp_path.name)


def state_of(step: int) -> dict[str, torch.Tensor]:
    return {"weights/w": torch.full((3,), float(step)), "exp_avg/w": torch.ones(3)}


def keys(attempt: str) -> set[str]:
    return set(open_store(join(attempt, "resume")).list())


def test_the_newest_state_is_the_one_with_the_most_steps(attempt: str) -> None:
    assert newest_state(attempt) is None
    for step in (9, 10, 100):
        save_state(attempt, state_of(step), step=step)
        state = newest_state(attempt)
        assert state is not None
        assert state.step == step
        with open_pieces(state.uri) as found:
            assert found["weights/w"].tolist() == [step] * 3


def test_saving_deletes_the_older_states(attempt: str) -> None:
    for step in (10, 20):
        save_state(attempt, state_of(step), step=step)
    left = {Path(key).suffix for key in keys(attempt) if key.startswith("step-00000020/")}
    assert left == {".json", ".safetensors"}
    assert not any(key.startswith("step-00000010/") for key in keys(attempt))


def test_as_many_states_are_kept_as_asked(attempt: str) -> None:
    for step in (10, 20, 30):
        save_state(attempt, state_of(step), step=step, keep=2)
    assert {key.split("/")[0] for key in keys(attempt)} == {"step-00000020", "step-00000030"}


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        (".safetensors", b"torn", "has 4 bytes, its manifest says"),
        (".safetensors", None, "is missing, but its manifest is there"),
        ("manifest.json", b"{", "is not a manifest of weights"),
    ],
)
def test_a_damaged_state_is_put_aside_and_the_one_before_it_used(
    attempt: str, file: str, data: bytes | None, reason: str
) -> None:
    for step in (10, 20):
        save_state(attempt, state_of(step), step=step, keep=2)
    store = open_store(join(attempt, "resume/step-00000020"))
    (name,) = (key for key in store.list() if key.endswith(file))
    store.write(name, data) if data is not None else store.delete(name)
    with open_state(attempt) as found:
        assert found is not None
        assert found.manifest["step"] == 10
        assert found["weights/w"].tolist() == [10] * 3
    state = newest_state(attempt)  # for ever
    assert state is not None
    assert state.step == 10
    (why,) = damaged_states(attempt).values()
    assert reason in why
    save_state(attempt, state_of(20), step=20, keep=2)  # trained again
    with open_state(attempt) as found:
        assert found is not None
        assert found.manifest["step"] == 20
    assert not damaged_states(attempt)


def test_where_all_states_are_damaged_there_is_none(attempt: str) -> None:
    save_state(attempt, state_of(10), step=10)
    for key in keys(attempt):
        if key.endswith(".safetensors"):
            open_store(join(attempt, "resume")).write(key, b"torn")
    with open_state(attempt) as found:
        assert found is None
    assert list(damaged_states(attempt)) == [10]


def test_a_torn_state_is_not_there(attempt: str) -> None:
    save_state(attempt, state_of(10), step=10)
    open_store(attempt).write("resume/step-00000020/t-00000-of-00001.safetensors", b"torn")
    state = newest_state(attempt)
    assert state is not None
    assert state.step == 10


def test_dropping_leaves_nothing(attempt: str) -> None:
    save_state(attempt, state_of(10), step=10)
    drop_states(attempt)
    assert not keys(attempt)
    assert newest_state(attempt) is None


def test_a_full_disk_of_one_machine_costs_no_state(attempt: str, tmp_path: Path) -> None:
    """Both states were put aside, and the training began at step 0 without a word."""
    tensors = {"weights/w": torch.arange(700_000.0)}  # 2.8 MB, in one part
    for step in (100, 200):
        save_state(attempt, tensors, step=step, keep=2)
    if attempt.startswith("s3:"):  # a directory needs no copies
        with full_disk(1 << 20), pytest.raises(Unavailable, match="this machine's disk"):
            open_state(attempt).__enter__()
    assert not damaged_states(attempt)
    with open_state(attempt) as found:
        assert found is not None
        assert found.manifest["step"] == 200


def test_what_only_one_machine_cannot_read_is_not_put_aside(
    attempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flips on its way to this machine, or a mount that this machine lacks."""
    save_state(attempt, state_of(10), step=10)
    with monkeypatch.context() as patch:
        patch.setattr("storage.commits.sha256_file", lambda path: "0" * 64)
        with pytest.raises(Unavailable, match=r"is intact, but the copy .* is not"):
            open_state(attempt).__enter__()
    assert not damaged_states(attempt)

    def missing(uri: str, **_: object) -> None:
        raise CorruptWeights(f"{uri}/x.safetensors is missing, but its manifest is there")

    asked = iter([missing, open_pieces])  # only the first look fails
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.lineage.resume_states.open_pieces",
            lambda uri, **more: next(asked)(uri, **more),
        )
        with pytest.raises(Unavailable, match="nothing was put aside"):
            open_state(attempt).__enter__()
    assert not damaged_states(attempt)


def test_a_state_that_was_put_aside_can_be_brought_back(attempt: str) -> None:
    save_state(attempt, state_of(10), step=10)
    store = open_store(place_of_state(attempt, 10))
    (name,) = (key for key in store.list() if key.endswith(".safetensors"))
    data = store.read(name)
    store.write(name, b"torn")
    with open_state(attempt) as found:
        assert found is None
    store.write(name, data)
    aside = json.loads(store.read("damaged.json"))
    store.write("manifest.json", aside["manifest"].encode())
    with open_state(attempt) as found:
        assert found is not None
        assert found["weights/w"].tolist() == [10] * 3


@pytest.mark.parametrize("key", ["step", "told"])
def test_a_manifest_that_does_not_say_what_was_trained_is_damage(attempt: str, key: str) -> None:
    save_state(attempt, state_of(10), step=10)
    store = open_store(place_of_state(attempt, 10))
    manifest = json.loads(store.read("manifest.json"))
    del manifest[key]
    store.write("manifest.json", json.dumps(manifest).encode())
    with open_state(attempt) as found:
        assert found is None
    assert "does not say what was trained" in damaged_states(attempt)[10]


def test_what_is_no_state_is_left_alone(attempt: str) -> None:
    save_state(attempt, state_of(10), step=10)
    for key in ("notes.txt", "step-abc/manifest.json", "step-7-backup/manifest.json"):
        open_store(join(attempt, "resume")).write(key, b"")
    state = newest_state(attempt)
    assert state is not None
    assert state.step == 10
    drop_states(attempt)
    assert keys(attempt) == {"notes.txt", "step-abc/manifest.json", "step-7-backup/manifest.json"}


def test_states_that_are_dropped_leave_no_folders_and_no_unfinished_files(tmp_path: Path) -> None:
    attempt = str(tmp_path / "attempt")
    for step in (10, 20, 30):
        save_state(attempt, state_of(step), step=step, keep=2)
        (tmp_path / f"attempt/resume/step-{step:08d}/.partial-deadbeef").write_bytes(b"half")
    save_state(attempt, state_of(40), step=40)
    assert [path.name for path in (tmp_path / "attempt/resume").iterdir()] == ["step-00000040"]
    drop_states(attempt)
    assert list((tmp_path / "attempt").iterdir()) == []


def test_damage_that_one_rank_finds_is_every_ranks(attempt: str) -> None:
    """Ranks in turn, as threads of a group: what one of them checks no other does."""
    for step in (10, 20):
        for writer in range(2):
            value = torch.full((1,), float(step))
            piece = ("weights/w", (2,), writer, value)
            write_part(place_of_state(attempt, step), "t", writer, 2, [piece])
        assert commit_state(attempt, step, token="t", writers=2, keep=2)
    store = open_store(place_of_state(attempt, 20))
    store.write("t-00001-of-00002.safetensors", b"torn")
    barrier, steps, damages = Barrier(2), [0, 0], ["", ""]

    def rank(number: int) -> float:
        def chosen(step: int) -> int:
            steps[number] = step
            barrier.wait(30)
            found = steps[0]
            barrier.wait(30)
            return found

        def agreed(text: str) -> str:
            damages[number] = text
            barrier.wait(30)
            found = damages[0] or damages[1]
            barrier.wait(30)
            return found

        with open_state(attempt, rank=number, world_size=2, chosen=chosen, agreed=agreed) as found:
            assert found is not None
            return float(found["weights/w"].sum())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(rank, range(2))) == [20.0, 20.0]  # the sum of the state of step 10
    assert "has 4 bytes" in damaged_states(attempt)[20]


def test_a_state_of_an_older_version_is_refused(tmp_path: Path) -> None:
    save_state(str(tmp_path), state_of(10), step=10)
    path = tmp_path / "resume/step-00000010/manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"].values():
        del entry["places"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="by an older vit-on-ray"), open_state(str(tmp_path)):
        pass
    assert newest_state(str(tmp_path)) is not None  # not put aside
