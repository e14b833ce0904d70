"""PostgreSQL: the truth. Tables, migrations, and every query; nothing else in the project speaks SQL.

A statement that finds its rows by a key, or by the index of turns, asks for their state within a CASE, as in ``task_id
= … AND CASE WHEN state = 'waiting' THEN true ELSE false END``. PostgreSQL plans by statistics, and those of an idle
system say that no row is in such a state: an index of states would look cheaper than what is meant, and each statement
of a burst would read all of it. A CASE fits no index but one that has the very same as its condition.
"""

from orchestrator.store.engine import make_engine
from orchestrator.store.store import PostgresStore

__all__ = ["PostgresStore", "make_engine"]
