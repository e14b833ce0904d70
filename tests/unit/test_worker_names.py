"""Ids and priorities as they travel through the broker."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.names import broker_priority, celery_id, celery_root


def test_a_celery_id_is_readable_and_new_for_each_doorbell() -> None:
    first, second = celery_id("order-1", 3), celery_id("order-1", 3)
    assert first.startswith("order-1:3:")
    assert first != second


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=200))
def test_a_root_is_ascii_bounded_and_the_same_each_time(task_id: str) -> None:
    root = celery_root(task_id)
    assert root == celery_root(task_id)
    assert root.isascii()
    assert 1 <= len(root) <= 200
    assert "~" in root or unquote(root) == task_id


def test_long_ids_that_begin_alike_have_roots_of_their_own() -> None:
    assert celery_root("ö" * 199 + "a") != celery_root("ö" * 199 + "b")


@pytest.mark.parametrize(("ours", "brokers"), [(9, 0), (4, 5), (0, 9), (12, 0), (-1, 9)])
def test_nine_is_the_most_urgent_for_us_and_zero_for_redis(ours: int, brokers: int) -> None:
    assert broker_priority(ours) == brokers
