"""How far PostgreSQL had come, kept in Redis for workers that start after everything was stopped.

A server that was set back with its data folder looks like itself: only somebody who has seen more of it can tell. The
bridge keeps that in Kafka as well; workers may start before it. What Redis loses is only this help.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orchestrator.domain.server import Seen
from orchestrator.errors import DispatchFailed

if TYPE_CHECKING:
    from orchestrator.flow.restores import RestoreStore
    from orchestrator.worker.dispatcher import CeleryDispatcher

log = logging.getLogger(__name__)


def remember(store: RestoreStore, dispatcher: CeleryDispatcher) -> None:
    """Keep what this process has seen. Raises nothing."""
    if store.seen is None:
        return
    try:
        dispatcher.keep_seen(str(store.seen))
    except DispatchFailed as error:
        log.debug("restores.not_kept", extra={"why": str(error)})


def recall(store: RestoreStore, dispatcher: CeleryDispatcher) -> None:
    """Have the store compare PostgreSQL with what others have seen, before it is used. Raises nothing."""
    try:
        told = Seen.from_text(dispatcher.kept_seen())
    except DispatchFailed as error:
        log.info("restores.not_recalled", extra={"why": str(error)})
        return
    if told is not None:
        store.remember(told)
