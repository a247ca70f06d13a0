"""The ledger: what is open after any order of lines, cut off anywhere, damaged anywhere."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.errors import ChaosError
from chaos.ledger import Ledger
from chaos.undo import MendLinks, Thaw

UNDO = (Thaw(host="a", agents_up=5), MendLinks(host="b", peers=("a", "w")))
steps = st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=25)


@settings(max_examples=40, deadline=None)  # each line is synced
@given(steps=steps, cut=st.floats(0, 1))
def test_a_ledger_that_is_cut_off_knows_every_whole_line(steps: list[tuple[str, bool]], cut: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        sizes, states, open_now = [0], [frozenset[str]()], set[str]()
        for id, begins in steps:
            if begins:
                ledger.open_fault(id, f"fault {id}", (id,), UNDO)
                open_now.add(id)
            else:
                ledger.heal(id, "harness")
                open_now.discard(id)
            sizes.append(ledger.path.stat().st_size)
            states.append(frozenset(open_now))
        assert {entry.id for entry in ledger.read().open} == open_now
        if steps:
            keep = round(cut * sizes[-1])
            ledger.path.write_bytes(ledger.path.read_bytes()[:keep])
            # A line counts with all of its bytes, whether or not its end of line came through.
            whole = max(i for i, size in enumerate(sizes) if size - (1 if i else 0) <= keep)
            found = ledger.read()
            assert {entry.id for entry in found.open} == states[whole]
            assert found.damaged == 0
            ledger.open_fault("z", "after the crash", ("z",), UNDO)
            assert {entry.id for entry in ledger.read().open} == states[whole] | {"z"}


def test_an_undo_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.read().open == ()
    ledger.open_fault("1", "link-cut host=a", {"link/a", "host/a"}, UNDO)
    (entry,) = ledger.read().open
    assert (entry.undo, entry.targets, entry.fault) == (UNDO, ("host/a", "link/a"), "link-cut host=a")
    ledger.clear()
    assert ledger.read().open == (entry,)  # never while something is open
    ledger.heal("1", "panic")
    assert [healed.by for healed in ledger.read().healed] == ["panic"]
    ledger.clear()
    assert ledger.path.read_bytes() == b""


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"{}", b'{"event":"opened"}', b"\0\0\0x"])
def test_damage_in_the_middle_is_counted_and_costs_one_line(tmp_path: Path, damage: bytes) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for id in "123":
        ledger.open_fault(id, f"fault {id}", (id,), UNDO)
    lines = ledger.path.read_bytes().split(b"\n")
    ledger.path.write_bytes(b"\n".join((lines[0], damage, *lines[2:])))
    found = ledger.read()
    assert [entry.id for entry in found.open] == ["1", "3"]
    assert found.damaged == 1


def test_many_write_at_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")

    def work(worker: int) -> None:
        for number in range(10):
            Ledger(ledger.path).open_fault(f"{worker}-{number}", "f", ("t",), UNDO)
            if number % 2:
                Ledger(ledger.path).heal(f"{worker}-{number}", "guard")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledger.read()
    assert found.damaged == 0
    assert {entry.id for entry in found.open} == {f"{w}-{n}" for w in range(4) for n in range(0, 10, 2)}


def test_a_disk_that_refuses_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(ChaosError, match="the undo of a fault cannot be kept there: is a directory"):
        Ledger(tmp_path / "ledger.jsonl").heal("1", "guard")
