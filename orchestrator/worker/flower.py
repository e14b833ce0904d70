"""Flower under our settings: ``FLOWER_PORT``, ``FLOWER_ADDRESS``, ``FLOWER_BASIC_AUTH``, also from ``.env`` and files.

Flower itself reads the environment only, and listens on all addresses unless told. What stands here are defaults: its
own environment variables, ``flowerconfig.py`` and options on the command line come later and win.
"""

from __future__ import annotations

from tornado.options import options

from orchestrator.settings import Settings

COLUMNS = "name,kwargs,state,result,received,runtime,worker,uuid"
"""Of the list of tasks: whose step it is and how it ended, which Flower's own choice leaves out."""


def set_defaults(settings: Settings) -> None:
    """Set Flower's options before it reads its command line."""
    options.port = settings.flower_port
    options.address = settings.flower_address
    options.tasks_columns = COLUMNS
    if settings.flower_basic_auth is not None:
        options.basic_auth = [settings.flower_basic_auth.get_secret_value()]
