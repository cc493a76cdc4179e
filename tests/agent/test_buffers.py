"""Memory for the segments that are packed at the same time."""

from __future__ import annotations

import threading

import pytest

from walkeeper.agent.archiver.buffers import Buffers


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


def test_one_comes_back_whatever_happens_meanwhile() -> None:
    buffers = Buffers(1)
    with pytest.raises(MemoryError), buffers.one():
        raise MemoryError
    with buffers.one():
        pass
