"""Whose signs of life move, and for how long somebody who finds no record has to watch."""

from __future__ import annotations

from walkeeper.core.life import RENEW_SECONDS, WATCH_SECONDS, LifeWatch

OWN = {"a"}


def test_a_sign_that_stands_still_is_watched_and_nobody_is_alive() -> None:
    watch = LifeWatch()
    watch.note(0, {"b": 7})
    assert (watch.alive(0, OWN), watch.left(0, OWN)) == ([], WATCH_SECONDS)
    watch.note(100, {"b": 7})
    assert watch.left(100, OWN) == WATCH_SECONDS - 100
    assert watch.left(WATCH_SECONDS, OWN) == 0


def test_a_sign_that_moves_is_somebody_who_lives_for_a_while_and_is_remembered() -> None:
    watch = LifeWatch()
    watch.note(0, {"b": 7})
    watch.note(RENEW_SECONDS, {"b": 8})
    assert watch.alive(RENEW_SECONDS, OWN) == ["b"]
    gone = RENEW_SECONDS + WATCH_SECONDS
    assert (watch.alive(gone, OWN), watch.moved(OWN)) == ([], ["b"])


def test_a_new_sign_is_a_movement_and_a_lost_one_is_none() -> None:
    watch = LifeWatch()
    watch.note(0, {"b": 7})
    watch.note(1, {})
    assert watch.moved(OWN) == []
    watch.note(2, {"b": 6, "c": 1})
    assert watch.moved(OWN) == ["c"]


def test_what_others_would_have_moved_is_known_before_it_is_noted() -> None:
    watch = LifeWatch()
    assert watch.news({"a": 1, "b": 7}, OWN) == []  # the first look is where the watch begins
    watch.note(0, {"a": 1, "b": 7})
    assert watch.news({"a": 2, "b": 7}, OWN) == []
    assert watch.news({"a": 2, "b": 8, "c": 0}, OWN) == ["b", "c"]


def test_ones_own_signs_say_nothing() -> None:
    watch = LifeWatch()
    watch.note(0, {"a": 1})
    watch.note(60, {"a": 2})
    assert (watch.moved(OWN), watch.alive(60, OWN), watch.left(60, OWN)) == ([], [], 0)


def test_where_there_are_no_signs_nothing_is_waited_for() -> None:
    watch = LifeWatch()
    watch.note(0, {})
    assert watch.left(0, OWN) == 0


def test_one_late_sign_is_nobody_who_lives_and_is_watched_from_then_on() -> None:
    watch = LifeWatch()
    watch.note(0, {"b": 7})
    watch.note(20, {"b": 8, "c": 1})
    assert (watch.renewed(OWN), watch.left(20, OWN)) == ([], WATCH_SECONDS)
    assert watch.left(20 + WATCH_SECONDS, OWN) == 0
    watch.note(20 + RENEW_SECONDS, {"b": 9, "c": 1})
    assert watch.renewed(OWN) == ["b"]
