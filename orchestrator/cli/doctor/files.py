"""Settings, the model, agents.yaml and events.yaml: what is read when a process starts, and whether the agents
answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.cli import parts
from orchestrator.cli.doctor.report import Finding, ok, unknown, wrong
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context
from orchestrator.errors import BadAnswer
from orchestrator.flow.ports import PlanRequest
from orchestrator.settings import Settings


def check_settings(settings: Settings) -> Iterator[Finding]:
    """They were read: say how many, and what contradicts itself."""
    given = len(settings.model_fields_set)
    yield ok("settings", f"{given} given, {len(type(settings).model_fields) - given} as they come")
    if settings.stall < settings.sweep_interval:
        yield wrong(
            "settings",
            f"ORCHESTRATOR_STALL ({settings.stall:g} s) is shorter than ORCHESTRATOR_SWEEP_INTERVAL "
            f"({settings.sweep_interval:g} s): every sweep would send every waiting step again",
            "Make ORCHESTRATOR_STALL a few times ORCHESTRATOR_SWEEP_INTERVAL.",
        )


def check_model(settings: Settings, *, ask: bool) -> Iterator[Finding]:
    """Key and package of the model's provider are there; asked a question only where that is wanted."""
    planner = parts.planner()
    if settings.plans_by_rules:
        yield ok("model", "rules: — no LLM, agents are chosen by what they provide and require")
    elif not ask:
        yield ok(
            "model", f"{settings.model}: key and package are there; not asked (--ask-model does, for a few tokens)"
        )
    else:
        yield _asked(settings, planner.decide)


def check_agents(settings: Settings) -> Iterator[Finding]:
    """agents.yaml can be read, and each enabled agent answers at its health address."""
    from orchestrator.cli.agent import health

    agents = parts.agents()
    enabled = [agent for agent in agents if agent.enabled]
    if not enabled:
        yield wrong("agents", f"{settings.agents_file} has no enabled agent", "Add one: see docs/adding-an-agent.md.")
        return
    yield ok("agents", f"{settings.agents_file}: {len(enabled)} enabled, {len(agents) - len(enabled)} not")
    for name, (healthy, answer) in health(enabled).items():
        if healthy is None:
            yield unknown(f"agent {name}", answer, "Add `health:` to its entry, and it can be asked.")
        elif healthy:
            yield ok(f"agent {name}", answer)
        else:
            yield wrong(f"agent {name}", answer, "Start it, or correct its url and health in agents.yaml.")
    yield from _limits(enabled)


def _limits(agents: Sequence[AgentSpec]) -> Iterator[Finding]:
    """Agents that are spared since calls failed, and those that more is asked of than their limits allow."""
    for name, state in parts.limit_states(agents).items():
        if state.open_for is not None:
            what = f"{state.failures} calls failed in a row, {state.waiting} wait; its breaker is open"
            yield wrong(f"agent {name}", what, "See what it says of them; calls go on by themselves once one succeeds.")
        elif state.waiting:
            what = f"{state.waiting} calls wait for its limits, {state.in_flight} are in flight"
            yield unknown(f"agent {name}", what, "As it was asked for; `limits` in agents.yaml raises them.")


def check_events(settings: Settings) -> Iterator[Finding]:
    """events.yaml can be read, where there is one."""
    types = parts.event_types()
    if settings.events_file is None:
        yield ok("event types", "none listed: every event merges as it is (ORCHESTRATOR_EVENTS names a file)")
    else:
        yield ok("event types", f"{settings.events_file}: {len(types)} listed")


def _asked(settings: Settings, decide: object) -> Finding:
    if not callable(decide):
        return unknown("model", f"{settings.model} cannot be asked")
    request = PlanRequest(
        task_id="doctor",
        step=1,
        description="This is a test of the connection. Nothing is to be done: finish.",
        context=Context(1, ()),
        agents=(),
        event_types=(),
        history=(),
    )
    try:
        decision = decide(request)
    except BadAnswer as error:
        return wrong(
            "model",
            f"{settings.model} answers, but not with a decision: {error}",
            "Choose a model that can call tools.",
        )
    usage = decision.usage
    return ok("model", f"{usage.model} answered in {usage.seconds:.1f} s, {usage.tokens_in + usage.tokens_out} tokens")
