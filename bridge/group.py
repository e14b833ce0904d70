"""The consumer group as the bridge sees it: what it was given, what it gave up, and when joining takes too long."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import IllegalStateError, KafkaTimeoutError

log = logging.getLogger(__name__)

JOINING_LONGEST = 2.5
"""How many session time-outs joining may take. All members poll at all times, so it takes a heartbeat or two; but a
broker that was killed meanwhile may leave the request unanswered, and kafka-python then waits five minutes for it."""


class GroupListener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Notes assignments; called on kafka-python's own thread, so it asks nothing of anyone.

    Args:
        session_timeout: seconds, of the group.
    """

    def __init__(self, consumer: KafkaConsumer, session_timeout: float) -> None:
        self._consumer = consumer
        self._joining_longest = JOINING_LONGEST * session_timeout
        self._lock = threading.Lock()
        self._unplaced: frozenset[TopicPartition] = frozenset()
        self._joining_since: float | None = time.monotonic()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """We are a member; these are ours, maybe none."""
        self._joining_since = None
        self.unplace(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """The group forms anew, or has lost us: these are no longer ours."""
        self._joining_since = time.monotonic()
        gone = frozenset(revoked)
        with self._lock:
            self._unplaced -= gone
        if gone:
            log.info("bridge.partitions_given_up", extra={"partitions": sorted(map(place_name, gone))})

    def unplace(self, places: Iterable[TopicPartition]) -> None:
        """Pause these until it is known where to begin."""
        new = frozenset(places)
        with self._lock:
            self._unplaced |= new
        with given_up_meanwhile():
            self._consumer.pause(*new)

    def placed(self, place: TopicPartition) -> None:
        """It is known where to begin."""
        with self._lock:
            self._unplaced -= {place}

    @property
    def is_joining(self) -> bool:
        """Whether the group has not taken us in yet."""
        return self._joining_since is not None

    def check_joining(self) -> None:
        """Whoever calls starts over, as a new member, where the group takes no notice of us.

        Raises:
            KafkaTimeoutError: joining takes too long.
        """
        since = self._joining_since
        if since is not None and time.monotonic() - since > self._joining_longest:
            raise KafkaTimeoutError(f"joining the group took over {self._joining_longest:g} s")

    def unplaced(self) -> frozenset[TopicPartition]:
        """Those of ours of which it is not known yet where to begin."""
        with self._lock:
            return self._unplaced


@contextlib.contextmanager
def given_up_meanwhile() -> Iterator[None]:
    """A rebalance on kafka-python's thread may take a partition away between our looking and our touching it."""
    with contextlib.suppress(KeyError, ValueError, IllegalStateError):
        yield


def place_name(place: TopicPartition) -> str:
    """A partition for the log."""
    return f"{place.topic}/{place.partition}"
