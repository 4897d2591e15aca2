"""A damaged manifest of a resume state, and a damaged note of why one is not used."""

from pathlib import Path

import torch
from hypothesis import given, seed
from hypothesis import strategies as st

from pipelines.lineage.resume_states import damaged_states, open_state, place_of_state, save_state
from storage.objects import open_store
from tests.storage.support.damage import damaged_bytes, damaged_json, fuzz, tried


@seed(20_260_107)
@fuzz
@given(st.data())
def test_a_damaged_resume_state_is_used_put_aside_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    attempt = str(tmp_path / "attempt")
    store = open_store(place_of_state(attempt, 10))
    if not (tmp_path / "good").exists():
        save_state(attempt, {"weights/w": torch.ones(2, 3)}, step=10)
        (tmp_path / "good").write_bytes(store.read("manifest.json"))
    good = (tmp_path / "good").read_bytes()
    store.write("manifest.json", data.draw(damaged_bytes(good) | damaged_json(good)))
    store.delete("damaged.json")
    tried(lambda: open_and_leave(attempt))
    assert store.exists("manifest.json") or damaged_states(attempt)[10]
    note = data.draw(st.binary(max_size=8) | damaged_bytes(b'{"reason": "x"}'))
    store.write("damaged.json", note)
    tried(lambda: damaged_states(attempt))


def open_and_leave(attempt: str) -> None:
    with open_state(attempt) as found:
        if found is not None:
            dict(found)
