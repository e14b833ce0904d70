"""Credit score: a slow agent. It answers 202 with a Location at once, and the score a good second later.

Copy this one where the work takes longer than a caller should wait on an open connection.
"""

from __future__ import annotations

import zlib

from ._server import Agent, Call, Later, serve

SECONDS = 1.5


def score(call: Call) -> Later:
    """A score of 35 to 99 for a registration number, the same each time, and the class of risk that follows."""
    points = 35 + zlib.crc32(call.text("registration_number").encode()) % 65
    return Later(SECONDS, {"credit_score": points, "risk_class": risk_class(points)})


def risk_class(points: int) -> str:
    """``low`` from 75 points, ``medium`` from 50, ``high`` below."""
    if points >= 75:
        return "low"
    return "medium" if points >= 50 else "high"


agent = Agent("credit_score", score)

if __name__ == "__main__":
    serve(agent)
