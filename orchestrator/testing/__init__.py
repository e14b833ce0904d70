"""What tests that `orchestrator task export` writes are made of: a task as it went, taken through its course again.

    from orchestrator.testing import replay

    replay(RECORDING)                     # raises AssertionError with everything that would be otherwise today
    replay(RECORDING, questions=False)    # the same, whatever a model would be asked in other words

Offline: no server, no model, no agent. docs/simulate.md says exactly what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.testing.recording import differences

__all__ = ["replay"]


def replay(recording: Mapping[str, Any], *, questions: bool = True) -> None:
    """Make sure that the task would still go as it went.

    Args:
        recording: as `orchestrator task export` writes it.
        questions: whether each question has to be the one that was put then, word for word.

    Raises:
        AssertionError: naming each difference, in the order of the course.
    """
    told = differences(recording, questions=questions)
    if told:
        task_id = recording["task"]["task_id"]
        raise AssertionError("\n".join([f"task {task_id!r} would go another way:", *(f"  - {one}" for one in told)]))
