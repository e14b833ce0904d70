"""What values are: equal by type and fields, never changed, copied with changes by name."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.domain.asked import Offer
from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.journal import GoOn, Lease
from orchestrator.domain.undo import Ended
from orchestrator.domain.value import replace
from tests.support.journal import agent

SPENT = Spent(3, tokens=7)


def test_values_of_one_kind_with_the_same_fields_are_equal() -> None:
    assert Spent(3, 7, Decimal(0)) == SPENT
    assert hash(SPENT) == hash(Spent(3, 7))
    assert replace(SPENT, tokens=8) != SPENT
    other: Any = Ended()
    assert GoOn() != other


def test_a_value_is_not_changed_but_copied() -> None:
    changed: Any = SPENT
    with pytest.raises(AttributeError):
        changed.tokens = 8
    assert (replace(SPENT, tokens=8), SPENT) == (Spent(3, 8), Spent(3, 7))
    with pytest.raises(TypeError, match="minutes"):
        replace(changed, minutes=1)


def test_a_value_outlasts_copying_and_pickling() -> None:
    for value in (SPENT, Budget(steps=5, money=Decimal("0.5")), Offer((agent("a", "a"),))):
        assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


def test_what_a_value_has_worked_out_is_not_told_of_its_copy() -> None:
    one = Offer((agent("a", "a"),))
    assert one.digest != replace(one, agents=()).digest == Offer().digest


def test_leases_are_the_same_right_whoever_left_the_row() -> None:
    lease = Lease("t-1", 2, 3, "me")
    told = replace(lease, left_by="77")
    assert (told, hash(told), told.left_by) == (lease, hash(lease), "77")
    for other in ({"task_id": "t-2"}, {"step": 3}, {"epoch": 4}, {"owner": "you"}, {"index": 0}):
        assert replace(lease, **other) != lease
    assert lease != ("t-1", 2, 3, "me", None)
