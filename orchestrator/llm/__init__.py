"""The planner port's implementations: a LangChain chat model, and rules without one.

`make_planner` chooses by the settings. Importing this package is cheap; LangChain (seconds, and some 90 MiB) is
imported when a model is first used.
"""

from orchestrator.llm.factory import make_planner

__all__ = ["make_planner"]
