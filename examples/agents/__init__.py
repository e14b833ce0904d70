"""Sample agents: one small file each, over the shared helper ``_server``. Python's standard library only.

All of them in one process: ``python -m examples.agents --port 8090``.
One alone: ``python -m examples.agents.company_register --port 8091``.
"""
