"""Where reading a partition begins: in doubt earlier, by hand as told."""

from __future__ import annotations

import pytest

from bridge.position import GroupOffset, Start, goes_back, mark, where_to_begin

OURS = mark("topic-1")


@pytest.mark.parametrize(
    ("stored", "group", "begin"),
    [
        pytest.param(None, None, None, id="first start"),
        pytest.param(7, None, None, id="the group's offset is gone"),
        pytest.param(7, GroupOffset(7, OURS), 7, id="all agree"),
        pytest.param(7, GroupOffset(5, OURS), 5, id="a commit to Kafka failed"),
        pytest.param(5, GroupOffset(7, OURS), 5, id="PostgreSQL was restored"),
        pytest.param(None, GroupOffset(7, OURS), 0, id="PostgreSQL was emptied"),
        pytest.param(7, GroupOffset(7, mark("topic-0")), None, id="the topic was made anew"),
        pytest.param(7, GroupOffset(7, mark(None)), 7, id="committed while the topic's id was not known"),
        pytest.param(7, GroupOffset(0, ""), 0, id="set back by hand"),
        pytest.param(7, GroupOffset(90, ""), 90, id="set forward by hand"),
        pytest.param(None, GroupOffset(90, "another tool"), 90, id="set by another tool"),
        pytest.param(7, GroupOffset(3, None), 3, id="no metadata kept, set back"),
        pytest.param(7, GroupOffset(90, None), 7, id="no metadata kept, ahead"),
    ],
)
def test_where_reading_begins(stored: int | None, group: GroupOffset | None, begin: int | None) -> None:
    start = where_to_begin(stored, group, "topic-1")
    assert start.offset == begin
    assert start.why


def test_without_a_topic_id_our_own_mark_is_taken() -> None:
    """Brokers before 2.8 tell no topic ids."""
    assert where_to_begin(7, GroupOffset(7, OURS), None).offset == 7
    assert where_to_begin(7, GroupOffset(7, mark(None)), None).offset == 7


def test_the_mark_fits_what_brokers_keep() -> None:
    assert len(mark("01a20df3-4215-73d0-b419-6f9dd23135f5").encode()) < 100


@pytest.mark.parametrize(
    ("start", "group", "back"),
    [
        (5, GroupOffset(7, OURS), True),
        (7, GroupOffset(7, OURS), False),
        (None, GroupOffset(7, OURS), False),
        (5, None, False),
    ],
)
def test_whether_reading_begins_before_the_group(start: int | None, group: GroupOffset | None, back: bool) -> None:
    assert goes_back(Start(start, "why"), group) is back
