"""PostgreSQL: the truth. Tables, migrations, and every query; nothing else in the project speaks SQL."""

from orchestrator.store.engine import make_engine
from orchestrator.store.store import PostgresStore

__all__ = ["PostgresStore", "make_engine"]
