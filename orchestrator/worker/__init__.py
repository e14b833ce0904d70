"""Celery: the app, its thin tasks, the chain of a task's steps, the leases' heartbeat, and what holds a worker upright.

`app` and what it needs stand low (adapters); `tasks` and `signals` stand above the wiring and are loaded by Celery.
"""
