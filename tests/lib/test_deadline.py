"""Calls behind a time limit (walkeeper/lib/deadline.py). What must hang hangs on an event that the test sets."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from walkeeper.lib.deadline import Deadline, DeadlineExceeded

SOON = 1.0
LATER = 20.0
"""Seconds: a limit that a test waits out, and within which a busy machine begins a thread; and one that it never reaches."""


@pytest.fixture
def deadline() -> Iterator[Deadline]:
    deadline = Deadline("test")
    yield deadline
    deadline.close()


class Hang:
    """A call that hangs until ``let_go``."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.let_go.wait(LATER)
        self.ended.set()
        return "late"


def threads_of(name: str) -> int:
    return sum(1 for thread in threading.enumerate() if thread.name == f"deadline-{name}")


def recovers(deadline: Deadline) -> str:
    """The first answer after a hang was let go: the thread needs a moment to notice."""
    for _ in range(2000):
        try:
            return deadline.call(lambda: "answer", LATER)
        except DeadlineExceeded:
            threading.Event().wait(0.005)
    raise AssertionError("it never worked again")


def test_a_call_returns_what_the_function_returns(deadline: Deadline) -> None:
    assert deadline.call(lambda: 42, LATER) == 42


def test_a_call_that_returns_nothing_returns_nothing(deadline: Deadline) -> None:
    assert deadline.call(lambda: None, LATER) is None


@pytest.mark.parametrize("problem", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_what_the_function_raises_is_raised_in_the_caller(deadline: Deadline, problem: BaseException) -> None:
    def fail() -> None:
        raise problem

    with pytest.raises(type(problem)) as caught:
        deadline.call(fail, LATER)
    assert caught.value is problem
    assert deadline.call(lambda: "still works", LATER) == "still works"


def test_a_call_that_overruns_raises_at_once_and_says_that_it_was_begun(deadline: Deadline) -> None:
    hang = Hang()
    with pytest.raises(DeadlineExceeded, match=r"^test: no answer within 1 s$") as caught:
        deadline.call(hang, SOON)
    assert caught.value.started
    hang.let_go.set()


def test_further_calls_fail_fast_and_never_run_while_the_thread_hangs(deadline: Deadline) -> None:
    hang, ran = Hang(), threading.Event()
    with pytest.raises(DeadlineExceeded):
        deadline.call(hang, SOON)
    with pytest.raises(DeadlineExceeded, match=r"^test: an earlier call still hangs$") as caught:
        deadline.call(ran.set, LATER)
    assert not caught.value.started
    assert deadline.stuck
    hang.let_go.set()
    assert recovers(deadline) == "answer"
    assert not ran.is_set()
    assert not deadline.stuck


def test_calls_work_again_after_the_call_that_hung_has_returned(deadline: Deadline) -> None:
    hang = Hang()
    with pytest.raises(DeadlineExceeded):
        deadline.call(hang, SOON)
    hang.let_go.set()
    assert recovers(deadline) == "answer"


def test_a_caller_that_waits_for_its_turn_fails_as_soon_as_the_call_before_it_overruns(deadline: Deadline) -> None:
    hang, ran, seen = Hang(), threading.Event(), {}

    def caller(which: str, function: Callable[[], object], timeout: float) -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            deadline.call(function, timeout)
        seen[which] = caught.value.started

    first = threading.Thread(target=caller, args=("first", hang, SOON))
    first.start()
    assert hang.begun.wait(LATER)
    second = threading.Thread(target=caller, args=("second", ran.set, LATER))
    second.start()
    second.join(LATER / 2)
    assert seen == {"first": True, "second": False}
    hang.let_go.set()
    first.join(LATER)
    assert recovers(deadline) == "answer"
    assert not ran.is_set()


def test_a_call_whose_turn_did_not_come_in_time_is_never_run(deadline: Deadline) -> None:
    hang, ran = Hang(), threading.Event()
    first = threading.Thread(target=lambda: deadline.call(hang, LATER))
    first.start()
    assert hang.begun.wait(LATER)
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.call(ran.set, SOON)
    assert not caught.value.started
    hang.let_go.set()
    first.join(LATER)
    assert deadline.call(lambda: "answer", LATER) == "answer"
    assert not ran.is_set()


def test_calls_of_many_threads_run_one_at_a_time_on_one_thread(deadline: Deadline) -> None:
    inside, most, done = threading.Semaphore(1), [], []

    def work() -> None:
        most.append(inside.acquire(blocking=False))
        done.append(threading.current_thread().name)
        inside.release()

    callers = [threading.Thread(target=lambda: deadline.call(work, LATER)) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LATER)
    assert most == [True] * 16
    assert set(done) == {"deadline-test"}


def test_fifty_timed_out_calls_need_one_thread() -> None:
    deadline, hang = Deadline("fifty"), Hang()
    for _ in range(50):
        with pytest.raises(DeadlineExceeded):
            deadline.call(hang, 0.002)
    assert threads_of("fifty") == 1
    hang.let_go.set()
    assert recovers(deadline) == "answer"
    assert threads_of("fifty") == 1
    deadline.close()


def test_a_closed_deadline_takes_no_calls_and_its_thread_ends() -> None:
    deadline = Deadline("closed")
    thread = deadline.call(threading.current_thread, LATER)
    deadline.close()
    thread.join(LATER)
    assert not thread.is_alive()
    with pytest.raises(DeadlineExceeded, match=r"^closed: closed$"):
        deadline.call(lambda: None, LATER)


def test_closing_does_not_wait_for_a_call_that_hangs_and_its_thread_ends_with_it() -> None:
    deadline, hang = Deadline("hung"), Hang()
    with pytest.raises(DeadlineExceeded):
        deadline.call(hang, SOON)
    deadline.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "deadline-hung"]
    assert thread.is_alive()
    hang.let_go.set()
    thread.join(LATER)
    assert not thread.is_alive()


def test_a_deadline_that_was_never_used_has_no_thread() -> None:
    Deadline("unused").close()
    assert threads_of("unused") == 0


def test_a_hanging_call_does_not_keep_the_process() -> None:
    program = (
        "import threading\n"
        "from walkeeper.lib.deadline import Deadline, DeadlineExceeded\n"
        "try:\n    Deadline('x').call(threading.Event().wait, 0.05)\n"
        "except DeadlineExceeded as problem:\n    print(problem)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "x: no answer within 0.05 s\n", "")
