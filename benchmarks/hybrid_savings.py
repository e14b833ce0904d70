"""How many questions and tokens `ORCHESTRATOR_PLANNER=hybrid` saves on the sample scenario.

``python -m benchmarks.hybrid_savings`` plays the tasks of ``examples/scenarios/supplier-onboarding.json`` decision by
decision: a model that always finds the right next call is taken for granted (the rules stand in for it), every agent
succeeds, and the prompt of each question is built for real. Tokens are estimated at three bytes each, tools included;
an answer is taken to have 120. No server, no network, no model: the same numbers each time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.agents import EventTypeRegistry, Registry
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.value import replace
from orchestrator.flow.planning import PlanRequest
from orchestrator.llm.bounds import likely_tokens
from orchestrator.llm.hybrid import why_a_model
from orchestrator.llm.prompt import build_prompt
from orchestrator.llm.rules import RulesPlanner
from orchestrator.llm.tools import Toolbox

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ANSWER_TOKENS = 120


@dataclass(slots=True)
class Count:
    """What a run asked."""

    decisions: int = 0
    asked: int = 0
    tokens: int = 0


def main() -> None:
    """Print one row for each registry and planner."""
    agents = list(Registry.load(EXAMPLES / "agents.yaml").enabled())
    events = EventTypeRegistry.load(EXAMPLES / "events.yaml").all()
    second = replace(next(one for one in agents if one.name == "credit_score"), name="second_score_agency")
    print("| registry | planner | decisions | questions to the model | tokens |")
    print("|---|---|---|---|---|")
    for title, registry in (("examples/agents.yaml", agents), ("with a second agency for scores", [*agents, second])):
        for planner in ("llm", "hybrid"):
            count = play(registry, events, hybrid=planner == "hybrid")
            print(f"| {title} | `{planner}` | {count.decisions} | {count.asked} | {count.tokens:,} |")


def play(agents: Sequence[AgentSpec], events: Sequence[EventType], *, hybrid: bool) -> Count:
    """All tasks of the scenario to their end."""
    count = Count()
    for record in json.loads((EXAMPLES / "scenarios" / "supplier-onboarding.json").read_text(encoding="utf-8")):
        _play_task(record["value"], agents, events, hybrid, count)
    return count


def _play_task(
    message: dict[str, Any], agents: Sequence[AgentSpec], events: Sequence[EventType], hybrid: bool, count: Count
) -> None:
    context = Context(1, tuple(message["required_fields"]), message["event_data"])
    history: list[HistoryEntry] = []
    while context.missing_fields:
        number = len(history) + 1
        request = PlanRequest("T", number, message["task_description"], context, agents, events, history)
        count.decisions += 1
        if not hybrid or why_a_model(request) is not None:
            tools = Toolbox.of(agents).definitions()
            count.asked += 1
            count.tokens += likely_tokens(build_prompt(request), tools) + ANSWER_TOKENS
        decision = RulesPlanner().decide(request)
        entry, changes = _carried_out(decision, number, agents)
        history.append(entry)
        context = context.apply(changes)


def _carried_out(decision: Decision, number: int, agents: Sequence[AgentSpec]) -> tuple[HistoryEntry, list[Change]]:
    now = datetime.now(UTC)
    if decision.kind is DecisionKind.WAIT_FOR_EVENT:
        approval = {"approved_by": "R. Castellanos"}
        changes = [Change("purchase_approval", approval, Origin("event", "supplier.approved", now))]
        return HistoryEntry(Step("T", number, StepState.FINISHED, decision, 1, 1), ()), changes
    by_name = {agent.name: agent for agent in agents}
    delegations, changes = [], []
    for index, call in enumerate(decision.calls):
        reply = {field: _sample(field) for field in by_name[call.agent].provides}
        delegations.append(
            Delegation(
                "T", number, index, call.agent, call.arguments, "", f"k{index}", DelegationState.SUCCEEDED, reply=reply
            )
        )
        changes += [Change(name, value, Origin("agent", call.agent, now, step=number)) for name, value in reply.items()]
    return HistoryEntry(Step("T", number, StepState.FINISHED, decision, 1, 1), tuple(delegations)), changes


def _sample(field: str) -> Any:
    return {"credit_score": 71, "sanctions_status": "clear", "sanctions_hits": [], "payment_terms_days": 30}.get(
        field, f"a {field} as agents give it"
    )


if __name__ == "__main__":
    main()
