"""Credit score: a slow agent. It answers 202 with a Location at once, and the score a good second later.

Copy this one where the work takes longer than a caller should wait on an open connection.
"""

from __future__ import annotations

import zlib

from ._server import Agent, Call, Later, serve

SECONDS = 1.5
SLOW_SECONDS = 60.0
"""For numbers that begin with SLOW: time to cancel one."""


def score(call: Call) -> Later:
    """A score of 35 to 99 for a registration number, the same each time, and the class of risk that follows."""
    number = call.text("registration_number")
    points = 35 + zlib.crc32(number.encode()) % 65
    seconds = SLOW_SECONDS if number.startswith("SLOW") else SECONDS
    return Later(seconds, {"credit_score": points, "risk_class": risk_class(points)})


def risk_class(points: int) -> str:
    """``low`` from 75 points, ``medium`` from 50, ``high`` below."""
    if points >= 75:
        return "low"
    return "medium" if points >= 50 else "high"


agent = Agent("credit_score", score)

if __name__ == "__main__":
    serve(agent)
