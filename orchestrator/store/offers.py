"""What planners were asked and offered: agents, event types and lists of them, each kept once under its digest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.asked import Asked, Offer, offers_of
from orchestrator.domain.journal import Lease
from orchestrator.store.engine import Transactions, jsonb, text

# Sorted, so that two commits that bring the same new entries wait for one another in the same order.
_KEEP = text("""
    INSERT INTO offers (digest, entry)
    SELECT r.digest, r.entry FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(digest text, entry jsonb)
    ORDER BY r.digest
    ON CONFLICT DO NOTHING
""")
_ASKED = text("UPDATE steps SET asked = CAST(:asked AS jsonb) WHERE task_id = :task_id AND step_number = :step")
_ENTRIES = text("SELECT digest, entry FROM offers WHERE digest = ANY(:digests)")


def keep_offer(connection: Connection, offer: Offer, kept: Collection[str]) -> None:
    """Write what of an offer is not among ``kept`` (digests that are in the table)."""
    rows = [{"digest": digest, "entry": entry} for digest, entry in offer.entries().items() if digest not in kept]
    connection.execute(_KEEP, {"rows": jsonb(rows)})


def keep_asked(connection: Connection, lease: Lease, asked: Asked) -> None:
    """Write the question of a step, whose row is there."""
    parameters = {"task_id": lease.task_id, "step": lease.step, "asked": jsonb(asked.to_json())}
    connection.execute(_ASKED, parameters)


class OfferPart(Transactions):
    """Reading offers: a part of `orchestrator.flow.ports.ReadStore`."""

    def offers(self, digests: Sequence[str]) -> Mapping[str, Offer]:
        """The offers of these digests; those not on record are left out."""

        def work(connection: Connection) -> Mapping[str, Offer]:
            entries = _entries(connection, set(digests))
            parts = {key for entry in entries.values() for key in (*entry["agents"], *entry["event_types"])}
            return offers_of(list(entries), {**_entries(connection, parts), **entries})

        return self.transact(work) if digests else {}


def _entries(connection: Connection, digests: Collection[str]) -> dict[str, Any]:
    return {row.digest: row.entry for row in connection.execute(_ENTRIES, {"digests": list(digests)})}
