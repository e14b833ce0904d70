"""Functions in PostgreSQL that make one round trip of what a step does most: one file each, SQL to be read.

Their plans are kept by each connection, and no client waits between their statements. A released file is never
changed: workers of two versions run side by side, and each calls the functions that it knows. What is to be different
gets a new number at the end of its name, a file and a migration of its own. What means the same may be
replaced in place, by a migration that says so.
"""

from __future__ import annotations

from importlib.resources import files


def source_of(name: str) -> str:
    """The statement that creates a function, e.g. of ``claim_step_1``."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
