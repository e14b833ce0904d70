"""A value as it comes back out of PostgreSQL is foretold to the letter."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.json_text import json_text
from orchestrator.domain.keepable import kept, unkeepable
from tests.support.store_world import StoreWorld

NUMBERS = [
    0.0,
    -0.0,
    1.0,
    100.0,
    0.1,
    1e-7,
    5e-324,
    9.99e15,
    1e16,
    123456789012345680.0,
    -1e16,
    1e22,
    1.7976931348623157e308,
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(NUMBERS)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
).filter(lambda value: unkeepable(value) is None)


def test_what_is_foretold_is_what_comes_back(store_world: StoreWorld) -> None:
    with store_world.store.raw() as connection, connection.cursor() as cursor:

        @settings(max_examples=300, deadline=None, database=None)
        @given(VALUES)
        def check(value: object) -> None:
            cursor.execute("SELECT %s::jsonb", (json_text(value).decode(),))
            (found,) = cursor.fetchone() or (None,)
            assert json.dumps(kept(value)) == json.dumps(found)

        for number in NUMBERS:
            cursor.execute("SELECT %s::jsonb", (json_text([number]).decode(),))
            assert [[json.dumps(kept([number]))]] == [[json.dumps(row[0])] for row in cursor.fetchall()]
        check()
