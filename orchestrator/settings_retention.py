"""Settings of how long things are kept; part of `orchestrator.settings`."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.setting_kinds import Days, Seconds
from orchestrator.setting_kinds import setting as _setting


class RetentionSettings(BaseModel):
    """Ages, and how often they are looked at."""

    # -- retention
    keep_tasks: Days = _setting("ORCHESTRATOR_KEEP_TASKS", 90.0, doc="Days an ended task is kept; 0: for ever.")
    keep_inbox: Days = _setting(
        "ORCHESTRATOR_KEEP_INBOX", 90.0, doc="Days a record is recognised that comes again: longer than Kafka keeps it."
    )
    keep_updates: Days = _setting("ORCHESTRATOR_KEEP_UPDATES", 30.0, doc="Days a published update is kept.")
    keep_dead_letters: Days = _setting("ORCHESTRATOR_KEEP_DEAD_LETTERS", 90.0, doc="Days a dead letter is kept.")
    keep_audit: Days = _setting("ORCHESTRATOR_KEEP_AUDIT", 730.0, doc="Days it is known what people did.")
    prune_interval: Seconds = _setting(
        "ORCHESTRATOR_PRUNE_INTERVAL", 600.0, doc="Seconds after which beat has what is old removed again."
    )
