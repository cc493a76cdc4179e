"""Memory for the segments that are packed at the same time."""

from __future__ import annotations

import threading

import pytest

from walkeeper.agent.archiver.buffers import Buffers
from walkeeper.lib import heap


def test_so_many_are_in_use_at_once_and_one_more_waits() -> None:
    buffers = Buffers(2)
    got = threading.Event()

    def third() -> None:
        with buffers.one():
            got.set()

    thread = threading.Thread(target=third)
    with buffers.one():
        with buffers.one():
            thread.start()
            assert not got.wait(0.1)
        assert got.wait(30)
    thread.join()


def test_the_one_that_was_used_last_is_used_next_with_what_it_has() -> None:
    buffers = Buffers(2)
    with buffers.one() as first:
        room = first.of(5)
    with buffers.one() as again:
        assert again.of(5) is room
        buffers.release()  # not what somebody uses
        assert again.of(5) is room
    buffers.release()
    with buffers.one() as again:
        assert again.of(5) is not room


def test_the_heap_keeps_large_blocks_from_the_first_one_on_until_none_is_used_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(heap, "keep_large_blocks", lambda: said.append("keep"))
    monkeypatch.setattr(heap, "return_large_blocks", lambda: said.append("return"))
    monkeypatch.setattr(heap, "give_back_end", lambda: said.append("end"))
    buffers = Buffers(2)
    buffers.release()
    assert said == []
    for _ in range(2):
        with buffers.one(), buffers.one():
            buffers.release()
        with buffers.one():
            buffers.release()
        assert said[-1] == "keep"
        buffers.release()
        buffers.release()
    assert said == ["keep", "return", "end"] * 2
    for _ in range(2):
        other = threading.Thread(target=buffers.release)  # its own end, if it had any
        other.start()
        other.join()
        assert said.pop() == "end"


def test_one_comes_back_whatever_happens_meanwhile() -> None:
    buffers = Buffers(1)
    with pytest.raises(MemoryError), buffers.one():
        raise MemoryError
    with buffers.one():
        pass
