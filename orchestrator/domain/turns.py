"""Whose turn it is: urgency and ageing, places in line, the dispatch window, and what is one tenant's share.

Pure rules; `orchestrator.store.turns` applies them to rows, the dispatcher to Celery's queues.
docs/priorities-and-fairness.md tells users the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from orchestrator.domain.value import Value, field

PRIORITIES = 10
"""From 0 to 9, 9 most urgent."""

MOST_URGENT = PRIORITIES - 1

LANES = 2
"""Of each urgency: 0 for a tenant's share, 1 for what it has under way beyond that."""

PLACES = PRIORITIES * LANES
"""Lists in which doorbells wait, in the order in which they are served."""

LAST_PLACE = PLACES - 1


def urgency_of(priority: int, aged: int) -> int:
    """A task's priority with the levels it gained by waiting; never more than the most urgent."""
    return max(0, min(MOST_URGENT, priority + aged))


def place_of(urgency: int, lane: int) -> int:
    """Where a doorbell stands among the lists: 0 is served first."""
    return (MOST_URGENT - urgency) * LANES + lane


class TurnRules(Value, frozen=True):
    """How turns are given. See the settings ``ORCHESTRATOR_TENANT_TASKS``, ``…_TENANT_SHARE``, ``…_AGEING``."""

    ageing: timedelta = timedelta(seconds=60)
    """Waiting for its turn this long makes a task one level more urgent."""
    share: int = 10
    """Tasks in flight of one tenant (or of all without one) that go before what others have beyond theirs."""
    cap: int | None = None
    """Tasks in flight of each tenant not named in ``caps``; None: no cap. Tasks without a tenant have none."""
    caps: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_caps(self) -> bool:
        """Whether any tenant has a cap."""
        return self.cap is not None or bool(self.caps)

    def cap_of(self, tenant: str | None) -> int | None:
        """How many tasks of the tenant may be in flight at once; None: any number."""
        return None if tenant is None else self.caps.get(tenant, self.cap)


class TenantLoad(Value, frozen=True):
    """What a tenant has under way."""

    tenant: str | None
    """None: all tasks without one."""
    in_flight: int
    due: int
    """Due now, and in flight not yet."""
    cap: int | None

    @property
    def held_back(self) -> bool:
        """Whether tasks wait for no other reason than the tenant's cap."""
        return self.due > 0 and self.cap is not None and self.in_flight >= self.cap


class Window:
    """How many doorbells may wait in the broker: ``size`` for each place, counting all that are served before it.

    So a broker full of less urgent doorbells has room for an urgent one. At most ``PLACES`` times the size wait in it,
    where every place in turn was filled before the ones ahead of it.
    """

    def __init__(self, size: int, waiting: Sequence[int] = (0,) * PLACES) -> None:
        self._size = size
        self._waiting = list(waiting)

    def copy(self) -> Window:
        """As it is now, to be filled apart from this one."""
        return Window(self._size, self._waiting)

    @property
    def waiting(self) -> int:
        """All that wait."""
        return sum(self._waiting)

    @property
    def most_urgent(self) -> int:
        """The urgency of the first that waits; -1 where none does."""
        first = next((place for place, count in enumerate(self._waiting) if count), PLACES)
        return MOST_URGENT - first // LANES

    def room(self, place: int) -> int:
        """How many more may be sent to this place."""
        return max(0, self._size - sum(self._waiting[: place + 1]))

    def last_with_room(self) -> int | None:
        """The last place that has room (then all before it have); None where there is none."""
        return next((place for place in range(LAST_PLACE, -1, -1) if self.room(place)), None)

    def fill(self, place: int) -> None:
        """Count one more."""
        self._waiting[place] += 1
