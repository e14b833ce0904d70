"""Whether a PostgreSQL is older than what was seen of it."""

from __future__ import annotations

import pytest

from orchestrator.domain.server import Identity, Seen, Server, further, why_older
from orchestrator.domain.value import replace

KEPT = Identity("7713578358311482909", "00000001", 16385, 17000)
SERVER = Server("0000000a", KEPT, KEPT, position=1000, before=frozenset({"00000009"}))
SEEN = Seen("0000000a", "00000001", 1000)


def now(**parts: object) -> Server:
    return replace(SERVER, now=replace(KEPT, **parts))  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("server", "seen", "why"),
    [
        (now(system="8"), None, "another server"),
        (now(database=1), None, "made anew"),
        (now(table=1), None, "made anew"),
        (now(timeline="00000002"), None, "a replica took over"),
        (replace(now(), kept=replace(KEPT, timeline="00000003")), None, "went back from timeline 3 to 1"),
        (SERVER, replace(SEEN, position=1001), "1 bytes before"),
        (SERVER, replace(SEEN, incarnation="0000000b"), "does not know any more"),
    ],
)
def test_what_tells_that_it_is_older(server: Server, seen: Seen | None, why: str) -> None:
    assert why in str(why_older(server, seen))


@pytest.mark.parametrize(
    ("server", "seen"),
    [
        (SERVER, None),
        (SERVER, SEEN),
        (SERVER, replace(SEEN, position=999)),
        # Noted by somebody else: what was seen before is of an incarnation that has ended.
        (SERVER, Seen("00000009", "00000001", 5000)),
        # What is not told says nothing.
        (now(system=None, timeline=None), replace(SEEN, position=5000)),
        (replace(SERVER, kept=replace(KEPT, system=None, timeline=None)), SEEN),
        (replace(SERVER, position=None), SEEN),
    ],
)
def test_what_raises_no_alarm(server: Server, seen: Seen | None) -> None:
    assert why_older(server, seen) is None


def test_a_replica_that_has_everything_is_no_older_but_one_of_an_earlier_timeline_is() -> None:
    taken_over = now(timeline="00000002")
    further_on = replace(SEEN, position=5000)
    assert why_older(taken_over, further_on, replicas_complete=True) is None
    back = replace(SERVER, kept=replace(KEPT, timeline="00000002"))
    assert why_older(back, None, replicas_complete=True) is not None
    assert why_older(SERVER, further_on, replicas_complete=True) is not None


def test_what_was_seen_survives_as_text_of_few_bytes() -> None:
    seen = Seen("0a1b2c3d", "0000000F", 2**63)
    assert Seen.from_text(str(seen)) == seen
    assert len(str(seen)) <= 34
    for text in (None, "", "x", f"{seen} ", "0a1b2c3d/0000000F"):
        assert Seen.from_text(text) is None


def test_the_furthest_of_one_timeline_is_remembered_and_of_two_the_newer() -> None:
    ahead = replace(SEEN, position=2000)
    assert further(ahead, SEEN) == further(SEEN, ahead) == further(None, ahead) == further(ahead, None) == ahead
    newer = Seen("0000000b", "00000001", 10)
    assert further(ahead, newer) == newer
