"""Cookies: made here, for this source and these words, not long ago."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.cookie import SIZE, SLOT_NS, CookieJar

JAR = CookieJar(bytes(32))
NOW_NS = 5 * SLOT_NS


def test_a_cookie_is_good_in_its_slot_and_the_next() -> None:
    cookie = JAR.make(b"source", b"said", NOW_NS)
    ages = (0, SLOT_NS - 1, SLOT_NS, 2 * SLOT_NS - 1, 2 * SLOT_NS, 100 * SLOT_NS, -1)
    found = [JAR.good(cookie, b"source", b"said", NOW_NS + age) for age in ages]
    assert found == [True, True, True, True, False, False, False]


def test_everything_about_a_cookie_counts() -> None:
    cookie = JAR.make(b"source", b"said", NOW_NS)
    assert not CookieJar(b"k" * 32).good(cookie, b"source", b"said", NOW_NS)
    assert not JAR.good(cookie, b"sourc", b"esaid", NOW_NS)
    assert not JAR.good(cookie, b"other!", b"said", NOW_NS)
    assert not JAR.good(cookie, b"source", b"told", NOW_NS)
    assert not JAR.good(b"", b"source", b"said", NOW_NS)
    for at in range(SIZE):
        for bit in range(8):
            changed = bytearray(cookie)
            changed[at] ^= 1 << bit
            assert not JAR.good(bytes(changed), b"source", b"said", NOW_NS)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_are_a_cookie_by_chance(data: bytes) -> None:
    assert not JAR.good(data, b"source", b"said", NOW_NS)
