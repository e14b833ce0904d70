"""Alembic's environment and revisions, run by `orchestrator.store.migrate`."""
