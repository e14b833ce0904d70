"""A decision with several calls, seen from its step: committed, left to run by themselves, and joined.

The step does not wait in a worker. It commits the decision with its delegations and ends; each delegation is a Celery
task of its own (`orchestrator.flow.delegation_run`), and the last to settle wakes the step, which finds them all here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import DECLINED, Delegation, DelegationState
from orchestrator.domain.journal import Fail, FanOut, Join, StepCommit, Then
from orchestrator.domain.task import PartialFailure, Task
from orchestrator.flow.delegate import new_delegations, parked, provided
from orchestrator.flow.execution import StepLimits, StepResult
from orchestrator.flow.ports import Agents
from orchestrator.flow.turn import Turn, now

LOOK_AFTER = timedelta(minutes=5)
"""How long a step waits at most before it looks for itself whether its delegations have settled."""

_FAILURES_TOLD = 5


def begin_fan_out(turn: Turn, decision: Decision, agents: Agents) -> StepResult:
    """Commit a decision with its delegations, as many of them due as may be under way, and free the worker."""
    rows = new_delegations(turn.task, turn.lease.step, decision, agents)
    return turn.end(StepCommit(_join(turn, len(rows)), decision=decision, delegations=rows))


def join(turn: Turn, agents: Agents) -> StepResult:
    """Go on where every delegation has ended; wait on where one has not."""
    delegations = [delegation for _, delegation in sorted(turn.delegations.items())]
    if any(_is_under_way(one, delegations, turn) for one in delegations):
        return turn.end(StepCommit(_join(turn, len(delegations))))
    if left := [one for one in delegations if one.parked]:
        return turn.end(StepCommit(parked(left)))
    return turn.end(StepCommit(conclude(turn, agents)))


def is_under_way(turn: Turn) -> bool:
    """Whether a delegation of several goes on by itself, beside the step."""
    delegations = list(turn.delegations.values())
    return len(delegations) > 1 and any(_is_under_way(one, delegations, turn) for one in delegations)


def conclude(turn: Turn, agents: Agents) -> Then:
    """What a step comes to once all its delegations have ended: failed by the task's policy, or gone on."""
    delegations = [delegation for _, delegation in sorted(turn.delegations.items())]
    if failure := failure_of(delegations, policy_of(turn.task, turn.limits)):
        return failure
    for delegation in delegations:
        if delegation.state is DelegationState.SUCCEEDED:
            turn.change(provided(agents.get(delegation.agent), delegation, now()))
    return turn.forward()


def failure_of(delegations: Sequence[Delegation], policy: PartialFailure) -> Fail | None:
    """How a step fails by its calls, all of which have ended; None: it does not."""
    failed = [one for one in delegations if _has_failed(one)]
    succeeded = any(one.state is DelegationState.SUCCEEDED for one in delegations)
    if failed and (policy is PartialFailure.ALL or (policy is PartialFailure.ANY and not succeeded)):
        return _failure(failed, len(delegations))
    return None


def policy_of(task: Task, limits: StepLimits) -> PartialFailure:
    """What a failed delegation means for its step: the task's own word, else the settings'."""
    return task.partial_failure or limits.partial_failure


def fan_out_of(task: Task, limits: StepLimits) -> FanOut:
    """How the delegations of a step of this task follow one another."""
    return FanOut(limits.fan_out_at_once, stop_on_failure=policy_of(task, limits) is PartialFailure.ALL)


def _join(turn: Turn, count: int) -> Join:
    look_at = now() + LOOK_AFTER
    if turn.task.deadline is not None:
        look_at = min(look_at, turn.task.deadline)
    reason = f"step {turn.lease.step} waits for its {count} delegations"
    return Join(fan_out_of(turn.task, turn.limits), look_at, reason)


def _is_under_way(one: Delegation, all_of_them: Iterable[Delegation], turn: Turn) -> bool:
    """Whether it goes on by itself. One never sent does not, where a failure has decided the step already."""
    if one.is_closed:
        return False
    never_sent = one.state is DelegationState.PENDING and one.attempts == 0 and one.due_at is None
    stop = fan_out_of(turn.task, turn.limits).stop_on_failure
    return not (never_sent and stop and any(_has_failed(other) for other in all_of_them))


def _has_failed(one: Delegation) -> bool:
    return one.state is DelegationState.FAILED and one.error_code != DECLINED


def _failure(failed: list[Delegation], count: int) -> Fail:
    if len(failed) == 1:
        return Fail(failed[0].error_code or "agent_failed", failed[0].error or f"{failed[0].agent} failed")
    told = [one.error or f"{one.agent} failed" for one in failed[:_FAILURES_TOLD]]
    more = f"; and {len(failed) - _FAILURES_TOLD} more" if len(failed) > _FAILURES_TOLD else ""
    codes = {one.error_code or "agent_failed" for one in failed}
    return Fail(
        codes.pop() if len(codes) == 1 else "agents_failed",
        f"{len(failed)} of {count} delegations failed: {'; '.join(told)}{more}",
    )
