"""Notification: tells the supplier's contact that the contract is ready. It sends nothing, it only notes it.

It fails at times, as mail servers do: for about every third key the first attempt gets 503 with Retry-After. Which keys
fail follows from the key alone, so a run can be repeated.
"""

from __future__ import annotations

import uuid
import zlib
from typing import Any

from ._server import Agent, Call, Problem, serve


def notify(call: Call) -> dict[str, Any]:
    """Send one notification."""
    to, contract_id = call.text("to"), call.text("contract_id")
    if "@" not in to:
        raise Problem(422, "Invalid input", f"input.to must be an e-mail address, {to!r} is none")
    if call.attempt == 1 and fails_first(call.key):
        raise Problem(503, "Mail server busy", "the mail server takes no messages just now", retry_after=1)
    return {"notification_id": f"NT-{uuid.uuid4().hex[:8]}", "subject": f"Your contract {contract_id} is ready"}


def fails_first(key: str) -> bool:
    """Whether the first attempt under this key fails: about one in three."""
    return zlib.crc32(key.encode()) % 3 == 0


agent = Agent("notification", notify, side_effects=True)

if __name__ == "__main__":
    serve(agent)
