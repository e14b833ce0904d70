"""A step played on a real store and a real agent, with a planner whose answers the test gives. A pytest plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.agents import EventTypeRegistry, HttpAgentClient
from orchestrator.domain.agent import AgentSpec, AgentTimeout
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import Dispatch, Lease
from orchestrator.domain.message import Message, Record, TaskMessage
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.flow.cancel_calls import CallCanceler, CancelResult
from orchestrator.flow.delegation_run import DelegationResult, DelegationRunner
from orchestrator.flow.limits import Limits, Unlimited
from orchestrator.flow.ports import Planner, PlanRequest, Received, Taken
from orchestrator.flow.step import StepLimits, StepResult, StepRunner
from orchestrator.store import PostgresStore, make_engine
from tests.support.agents import ScriptedAgent
from tests.support.stack import wait_for

Answer = Decision | Exception | Callable[[PlanRequest], Decision]
USAGE = Usage("scripted", prompt_version="test")


def call(*agents: str, **arguments: Any) -> Decision:
    """A decision to call these; an agent named again gets another argument, since the same call twice is one."""
    calls = tuple(
        AgentCall(name, {**arguments, "nth": place} if name in agents[:place] else arguments)
        for place, name in enumerate(agents)
    )
    return Decision(DecisionKind.CALL, "because", USAGE, calls=calls)


class World:
    """A store, an agent, a planner whose answers the test gives, and a runner over them."""

    def __init__(self, store: PostgresStore, agent: ScriptedAgent) -> None:
        self.store = store
        self.agent = agent
        self.specs: dict[str, AgentSpec] = {}
        self.answers: list[Answer] = []
        self.asked: list[PlanRequest] = []
        self.limits = StepLimits(planner_retry=RetryPolicy(3, 0.01, 0.02))
        self.client = HttpAgentClient(concurrency=4)
        self.planner: Planner = self
        """Who decides; the test itself unless it puts another in."""
        self.event_types: dict[str, EventType] = {}
        self.calls: Limits = Unlimited()
        self._offset = 0

    # -- the ports that the test plays itself

    def get(self, name: str | None) -> Any:
        return self.specs.get(name or "")

    def enabled(self, allowed: Sequence[str] | None = None) -> Sequence[AgentSpec]:
        return [spec for spec in self.specs.values() if allowed is None or spec.name in allowed]

    def hold(self, _lease: Lease) -> Any:
        return nullcontext(lambda: False)

    def decide(self, request: PlanRequest) -> Decision:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Decision) else answer(request)

    # -- what a test does

    def add_agent(self, name: str, *answers: dict[str, Any], **parts: Any) -> AgentSpec:
        url = self.agent.script(f"/{name}", *answers, idempotent=bool(parts.get("idempotent")))
        defaults: dict[str, Any] = {
            "provides": {name: f"/{name}"},
            "retry": RetryPolicy(3, 0.01, 0.02),
            "timeout": AgentTimeout(1, 2, 5),
        }
        self.specs[name] = AgentSpec(name, f"Gives {name}.", url, **{**defaults, **parts})
        return self.specs[name]

    def take(self, message: Message) -> Taken:
        self._offset += 1
        record = Record("tasks", 0, self._offset, 1, None, repr(message).encode())
        (taken,) = self.store.accept([Received(record, message)], due_in=timedelta(seconds=30))
        return taken

    def submit(self, *required: str, **data: Any) -> str:
        self.take(TaskMessage("t-1", "Do it", required, data))
        return "t-1"

    def run(self, step: int = 1, task_id: str = "t-1") -> StepResult:
        """Run a step; where it has several delegations, run these too, and the step again once the last is there."""
        result = self.run_step(step, task_id)
        bells = list(result.doorbells)
        while bells:
            if bells[0].index is None:
                return self.run_step(bells[0].step, task_id)
            bells += self.run_delegation(bells.pop(0)).doorbells
        return result

    def run_delegation(self, place: Dispatch) -> DelegationResult:
        """Run one delegation of a parallel step, as its Celery task does."""
        runner = DelegationRunner(
            store=self.store, agents=self, client=self.client, leases=self, owner="test", limits=self.limits
        )
        return runner.run(place)

    def tell(self, place: Dispatch) -> CancelResult:
        """Tell an agent that a call is not wanted any more, as its Celery task does."""
        return CallCanceler(store=self.store, agents=self, client=self.client).run(place)

    def tell_all(self, task_id: str = "t-1") -> list[CancelResult]:
        """Work through what is rung for: what a commit has just left to be told."""
        return [self.tell(place) for place in self.store.unwanted_calls(task_id)]

    def tell_until_closed(self, task_id: str = "t-1") -> list[CancelResult]:
        """Tell agents whenever it is due, until nothing is left to be told."""
        results = self.tell_all(task_id)

        def closed() -> bool:
            results.extend(self.tell(place) for place in self.store.ring_due_cancellations(100, timedelta(seconds=10)))
            return all(one.finished_at is not None for one in self.store.cancellations(task_id))

        wait_for(closed, what="nothing is left to be told", every=0.02)
        return results

    def sweep(self) -> Sequence[Dispatch]:
        """Delegations that are due now."""
        return self.store.ring_due_delegations(100, timedelta(seconds=10))

    def run_step(self, step: int = 1, task_id: str = "t-1") -> StepResult:
        """Run a step alone."""
        return self.runner().run(task_id, step)

    def runner(self, **parts: Any) -> StepRunner:
        """What runs steps over the parts of this world."""
        return StepRunner(
            store=self.store,
            planner=self.planner,
            agents=self,
            event_types=EventTypeRegistry(list(self.event_types.values())),
            client=self.client,
            leases=self,
            owner="test",
            limits=self.limits,
            calls=self.calls,
            **parts,
        )

    def run_until_it_moves_on(self, step: int = 1) -> StepResult:
        """Run the step whenever it is due, until it no longer waits for a retry or an agent."""
        results: list[StepResult] = []

        def moved_on() -> bool:
            for place in self.sweep():
                self.run_delegation(place)
            result = self.run(step)
            if result.outcome != "skipped":
                results.append(result)
            task = self.store.task("t-1")
            return task.waits_for not in {WaitsFor.RETRY, WaitsFor.AGENT} and task.state is not TaskState.PROCESSING

        wait_for(moved_on, what="the step moved on")
        return results[-1]

    def sql(self, statement: str) -> None:
        """Change rows as no program would."""
        with self.store.engine.begin() as connection:
            connection.execute(text(statement))

    def sql_due(self) -> datetime | None:
        """When the task's doorbell is rung next."""
        with self.store.engine.begin() as connection:
            found: datetime | None = connection.execute(text("SELECT due_at FROM tasks")).scalar_one()
            return found

    def data(self) -> dict[str, Any]:
        return dict(self.store.context("t-1").collected_data)


@pytest.fixture
def world(database_url: str, scripted_agent: ScriptedAgent) -> Iterator[World]:
    engine = make_engine(database_url)
    yield World(PostgresStore(engine), scripted_agent)
    engine.dispose()
