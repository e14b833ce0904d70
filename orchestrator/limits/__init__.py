"""Caps, rates and breakers shared by all workers, in Redis. Losing Redis or what is in it is harmless.

`scripts` has what runs inside Redis, `shared` the port's implementation over it, `own` what one process keeps to while
Redis is away, `connection` how Redis is reached.
"""

from orchestrator.limits.connection import connect
from orchestrator.limits.shared import BreakerRules, SharedLimits

__all__ = ["BreakerRules", "SharedLimits", "connect"]
