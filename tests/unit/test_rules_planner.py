"""Backward chaining: which agents are called, what is waited for, and when there is no way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import DECLINED, Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.value import replace
from orchestrator.errors import NoRoute
from orchestrator.flow.decide import check
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.rules import RulesPlanner


def agent(name: str, provides: str, requires: Mapping[str, str] | str = "", **schema: Any) -> AgentSpec:
    """An agent by the words of its entry: fields separated by blanks, requires also as input → pointer."""
    needs = {word: f"/{word}" for word in requires.split()} if isinstance(requires, str) else requires
    return AgentSpec(
        name,
        "",
        "http://a.test/",
        input_schema={"type": "object", **schema},
        provides={word: f"/{word}" for word in provides.split()},
        requires=needs,
    )


REGISTER = agent("register", "legal_name number", {"company": "/company_name"})
SCORE = agent("credit_score", "credit_score", "number")
SCREENING = agent("screening", "sanctions", "legal_name")
CONTRACT = agent(
    "contract", "contract_id", {"score": "/credit_score", "status": "/sanctions", "by": "/approval/approved_by"}
)
AGENTS = [REGISTER, SCORE, SCREENING, CONTRACT]
APPROVED = EventType("supplier.approved", fills={"approval": "/approval"})


def plan(
    required: str,
    data: dict[str, Any] | None = None,
    *,
    agents: Sequence[AgentSpec] = AGENTS,
    events: Sequence[EventType] = (APPROVED,),
    history: Sequence[HistoryEntry] = (),
    **more: Any,
) -> Decision:
    context = Context(1, tuple(required.split()), data or {})
    return RulesPlanner().decide(PlanRequest("T-1", 3, "Onboard", context, agents, events, history, **more))


def past(
    *calls: tuple[str, dict[str, Any]],
    state: DelegationState = DelegationState.SUCCEEDED,
    superseded: bool = False,
    wait: str | None = None,
) -> HistoryEntry:
    kind = DecisionKind.CALL if wait is None else DecisionKind.WAIT_FOR_EVENT
    details = {} if wait is None else {"event_type": wait}
    decision = Decision(kind, "", Usage("rules:"), details=details)
    step = Step("T-1", 1, StepState.FINISHED, decision, 1, 1, superseded=superseded)
    return HistoryEntry(
        step,
        tuple(Delegation("T-1", 1, n, name, args, "", f"k{n}", state) for n, (name, args) in enumerate(calls)),
    )


def called(decision: Decision) -> list[tuple[str, dict[str, Any]]]:
    assert decision.kind is DecisionKind.CALL
    return [(call.agent, dict(call.arguments)) for call in decision.calls]


def test_the_agent_that_provides_a_missing_field_is_called_with_what_it_requires() -> None:
    decision = plan("credit_score", {"number": "HRB 1", "legal_name": "Acme"})
    assert called(decision) == [("credit_score", {"number": "HRB 1"})]
    assert decision.reason == (
        "credit_score is missing; `credit_score` provides it and everything it needs (number) is known"
    )
    assert decision.calls[0].task == "Provide credit_score."
    assert decision.usage.model == "rules:"


def test_unmet_requirements_are_looked_for_in_the_same_way() -> None:
    decision = plan("credit_score", {"company_name": "Acme"})
    assert called(decision) == [("register", {"company": "Acme"})]
    assert decision.reason == (
        "credit_score is missing; `credit_score` provides it but needs number; "
        "`register` provides that and everything it needs (company_name) is known"
    )


def test_agents_that_can_be_called_at_the_same_time_are_called_in_one_decision() -> None:
    decision = plan("contract_id", {"number": "1", "legal_name": "Acme"})
    assert called(decision) == [("credit_score", {"number": "1"}), ("screening", {"legal_name": "Acme"})]


def test_one_agent_that_two_fields_need_is_called_once() -> None:
    assert called(plan("credit_score sanctions", {"company_name": "Acme"})) == [("register", {"company": "Acme"})]


def test_agents_go_before_waiting_and_then_the_event_is_waited_for() -> None:
    assert plan("contract_id", {"number": "1", "legal_name": "A"}).kind is DecisionKind.CALL
    decision = plan("contract_id", {"credit_score": 7, "sanctions": "clear"})
    assert decision.kind is DecisionKind.WAIT_FOR_EVENT
    assert decision.details == {"event_type": "supplier.approved"}
    assert decision.reason == "approval is missing and only an event brings it (supplier.approved)"


def test_a_field_that_lacks_the_part_an_agent_needs_is_not_enough() -> None:
    known = {"credit_score": 7, "sanctions": "clear", "approval": {"at": "noon"}}
    assert plan("contract_id", known).kind is DecisionKind.WAIT_FOR_EVENT
    known["approval"] = {"approved_by": "Ann"}
    assert called(plan("contract_id", known)) == [("contract", {"score": 7, "status": "clear", "by": "Ann"})]


def test_the_event_is_not_waited_for_where_an_agent_provides_the_field() -> None:
    approver = agent("approver", "approval")
    assert called(plan("approval", agents=[*AGENTS, approver])) == [("approver", {})]


def test_several_events_are_waited_for_as_any_event() -> None:
    other = EventType("other", schema={"type": "object", "properties": {"budget": {}}})
    decision = plan("approval budget", events=(APPROVED, other))
    assert (decision.kind, decision.details) == (DecisionKind.WAIT_FOR_EVENT, {})


def test_a_way_without_waiting_is_preferred_to_an_earlier_agent_that_has_to_wait() -> None:
    slow, quick = agent("slow", "x", "approval"), agent("quick", "x", "company_name")
    assert called(plan("x", {"company_name": "A"}, agents=[slow, quick])) == [("quick", {"company_name": "A"})]


def test_known_inputs_that_nobody_requires_are_given_too_and_required_ones_are_looked_for() -> None:
    spec = agent("a", "x", properties={"lang": {}, "note": {}, "number": {}}, required=["number"])
    assert called(plan("x", {"number": "1", "lang": "de", "note": ""}, agents=[spec])) == [
        ("a", {"lang": "de", "number": "1"})
    ]
    assert called(plan("x", {"company_name": "A"}, agents=[spec, REGISTER])) == [("register", {"company": "A"})]


@pytest.mark.parametrize("state", [DelegationState.SUCCEEDED, DelegationState.FAILED, DelegationState.UNKNOWN])
def test_what_brought_nothing_is_not_called_again_with_the_same_arguments(state: DelegationState) -> None:
    second = agent("second_score", "credit_score", "legal_name")
    data = {"number": "1", "legal_name": "A"}
    history = [past(("credit_score", {"number": "1"}), state=state)]
    assert called(plan("credit_score", data, agents=[SCORE, second], history=history)) == [
        ("second_score", {"legal_name": "A"})
    ]
    with pytest.raises(NoRoute, match="no way to credit_score: `credit_score` was called with what is known and"):
        plan("credit_score", data, agents=[SCORE], history=history)
    changed = plan("credit_score", {**data, "number": "2"}, agents=[SCORE], history=history)
    assert called(changed) == [("credit_score", {"number": "2"})]


def test_a_call_that_nobody_approved_is_told_as_that() -> None:
    (entry,) = [past(("credit_score", {"number": "1"}), state=DelegationState.FAILED)]
    declined = [replace(one, error_code=DECLINED, error="ann declined the call: no") for one in entry.delegations]
    with pytest.raises(NoRoute, match=r"was not approved \(ann declined the call: no\)"):
        plan("credit_score", {"number": "1"}, agents=[SCORE], history=[replace(entry, delegations=tuple(declined))])


def test_steps_before_a_rerun_do_not_count() -> None:
    history = [past(("credit_score", {"number": "1"}), superseded=True)]
    assert called(plan("credit_score", {"number": "1"}, history=history)) == [("credit_score", {"number": "1"})]


def test_data_that_does_not_fit_an_agents_schema_leads_to_another_agent_or_to_none() -> None:
    strict = agent("strict", "x", "number", properties={"number": {"type": "integer"}})
    loose = agent("loose", "x", "number")
    assert called(plan("x", {"number": "1"}, agents=[strict, loose])) == [("loose", {"number": "1"})]
    with pytest.raises(NoRoute, match="does not fit the input_schema of `strict`: '1' is not of type 'integer'"):
        plan("x", {"number": "1"}, agents=[strict])


def test_no_way_names_the_field_and_what_was_looked_at() -> None:
    with pytest.raises(NoRoute) as raised:
        plan("credit_score vat_number", {"number": "1"})
    assert str(raised.value) == (
        "no way to vat_number: no enabled agent provides vat_number (register, credit_score, screening, contract) "
        "and no event type fills it (supplier.approved)"
    )
    assert "agents.yaml" in str(raised.value.hint)
    assert raised.value.task_id == "T-1"
    with pytest.raises(NoRoute) as raised:
        plan("credit_score", agents=AGENTS)
    assert str(raised.value).startswith(
        "no way to credit_score: `credit_score` provides it but needs number; "
        "number: `register` provides it but needs company_name; company_name: no enabled agent provides company_name"
    )
    with pytest.raises(NoRoute, match=r"\(there are none\) and no event type fills it \(there are none\)"):
        plan("x", agents=[], events=[])


def test_agents_that_need_one_another_are_no_way() -> None:
    circle = [agent("a", "x", "y"), agent("b", "y", "z"), agent("c", "z", "x")]
    with pytest.raises(NoRoute, match=r"z: `c` provides it but needs x \(a circle\)"):
        plan("x", agents=circle)
    assert called(plan("x", agents=[*circle, agent("d", "z")])) == [("d", {})]


def test_a_dead_end_seen_from_inside_a_circle_may_be_none_from_elsewhere() -> None:
    # Looked for below x, y is a circle; by itself it is reached through x.
    agents = [agent("a", "x", "y"), agent("b", "y", "x"), agent("c", "x")]
    assert called(plan("x y", agents=agents)) == [("c", {})]


def test_many_agents_for_unreachable_fields_are_searched_quickly() -> None:
    agents = [agent(f"a{n}{twin}", f"f{n}", f"f{n + 1}") for n in range(200) for twin in "xy"]
    with pytest.raises(NoRoute) as raised:
        plan("f0", agents=agents)
    assert str(raised.value).endswith("; …")
    assert called(plan("f0", {"f200": 1}, agents=agents)) == [("a199x", {"f200": 1})]


def test_a_wait_that_timed_out_fails_the_task_unless_there_is_another_way() -> None:
    history = [past(wait="supplier.approved")]
    decision = plan("approval", history=history, wait_timed_out=True)
    assert (decision.kind, decision.details) == (DecisionKind.FAIL, {"code": "wait_timeout"})
    assert decision.reason.startswith("waited for supplier.approved, which did not come in time")
    other = EventType("board.approved", fills={"approval": "/a"})
    decision = plan("approval", events=(APPROVED, other), history=history, wait_timed_out=True)
    assert decision.details == {"event_type": "board.approved"}
    both = [*history, past(wait="board.approved")]
    decision = plan("approval", events=(APPROVED, other), history=both, wait_timed_out=True)
    assert decision.kind is DecisionKind.FAIL, "two events that do not come are not waited for in turn for ever"
    assert plan("approval", history=history).kind is DecisionKind.WAIT_FOR_EVENT, "woken by another event"


@pytest.mark.parametrize(("required", "data"), [("", {}), ("x", {"x": 1})])
def test_a_task_with_nothing_to_find_out_is_finished(required: str, data: dict[str, Any]) -> None:
    assert plan(required, data).kind is DecisionKind.FINISH


def test_a_refused_decision_is_not_proposed_again() -> None:
    with pytest.raises(NoRoute, match="was refused: arguments of credit_score do not fit"):
        plan("credit_score", {"number": "1"}, complaints=["arguments of credit_score do not fit"])


fields = st.sampled_from([f"f{n}" for n in range(8)])
some_agents = st.lists(
    st.tuples(st.sets(fields, min_size=1, max_size=2), st.sets(fields, max_size=2)), min_size=1, max_size=8
)


@given(some_agents, st.sets(fields, min_size=1, max_size=3), st.sets(fields, max_size=2), st.sets(fields, max_size=2))
def test_any_registry_is_finished_or_given_up_in_bounded_steps(
    entries: list[tuple[set[str], set[str]]], required: set[str], known: set[str], filled: set[str]
) -> None:
    """Replies that give all they promise, events that come: no plan is refused, none goes on for ever."""
    agents = [agent(f"a{n}", " ".join(sorted(p)), " ".join(sorted(r))) for n, (p, r) in enumerate(entries)]
    events = [EventType(f"e-{name}", fills={name: "/x"}) for name in sorted(filled)]
    context = Context(1, tuple(sorted(required)), dict.fromkeys(known, 1))
    history: list[HistoryEntry] = []
    for _ in range(2 * 8 + 1):
        if context.is_complete:
            return
        request = PlanRequest("T-1", 1, "", context, agents, events, history)
        try:
            decision = check(RulesPlanner().decide(request), request)
        except NoRoute:
            assert not history, "what cannot be reached is seen before anything is done"
            return
        new = {"e-" + name: name for name in filled}
        if decision.kind is DecisionKind.CALL:
            promised = {name for call in decision.calls for name in _spec(agents, call).provides}
            history.append(past(*[(call.agent, dict(call.arguments)) for call in decision.calls]))
        else:
            awaited = decision.details.get("event_type")
            promised = {new[awaited]} if awaited else set(filled)
        context = Context(
            context.version + 1, context.required_fields, {**context.collected_data, **dict.fromkeys(promised, 1)}
        )
    pytest.fail("the task goes on for ever")


def _spec(agents: Sequence[AgentSpec], call: AgentCall) -> AgentSpec:
    return next(one for one in agents if one.name == call.agent)
