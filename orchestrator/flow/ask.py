"""What the planner is asked in a step, and how it is noted that it was."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.domain.decision import Decision
from orchestrator.domain.journal import HistoryEntry
from orchestrator.flow.planning import Planner, PlanRequest
from orchestrator.flow.ports import Agents, EventTypes
from orchestrator.flow.purse import TurnPurse
from orchestrator.flow.select_agents import select_agents
from orchestrator.flow.turn import Turn
from orchestrator.flow.waiting import as_it_now_is


def course(turn: Turn) -> Sequence[HistoryEntry]:
    """The task's present course, without the step at hand."""
    return [entry for entry in turn.history() if not entry.step.superseded and entry.step.number != turn.lease.step]


def question(
    turn: Turn,
    history: Sequence[HistoryEntry],
    agents: Agents,
    event_types: EventTypes,
    *,
    wait_timed_out: bool = False,
) -> PlanRequest:
    """What the planner is asked in this step; ``history`` is the task's `course`."""
    task, limits = turn.task, turn.limits
    return PlanRequest(
        task_id=task.task_id,
        step=turn.lease.step,
        description=task.description,
        context=turn.context,
        agents=select_agents(agents.enabled(task.allowed_agents), turn.context, task.description, limits.prompt_agents),
        event_types=event_types.all(),
        history=as_it_now_is(turn, history),
        wait_timed_out=wait_timed_out,
        prompt_version=task.versions.get("prompt"),
        purse=TurnPurse(turn),
        max_calls=_calls_left(turn),
    )


class Asking:
    """The planner, with each question noted for the journal."""

    def __init__(self, planner: Planner, turn: Turn) -> None:
        self._planner = planner
        self._turn = turn

    def decide(self, request: PlanRequest) -> Decision:
        """Ask."""
        self._turn.asked(request)
        return self._planner.decide(request)


def _calls_left(turn: Turn) -> int:
    """How many agents this step may call: calls before a rerun were made, and count."""
    most, bound = turn.limits.max_fan_out, turn.budget.delegations
    return most if bound is None else max(0, min(most, bound - turn.spent.delegations))
