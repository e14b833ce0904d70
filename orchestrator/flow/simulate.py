"""Deciding an ended task again, with another model or prompt, against what its journal has. Pure but for who is asked.

Up to the first choice that differs, each question is the very question that was put then. From there on the course is
another one: it goes on with the answers on record, as far as they cover what it wants (`orchestrator.flow.on_record`).
Where they do not, the simulation ends, and what would have come is said to be unknown. No agent is called, nothing
is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from orchestrator.domain.decision import Usage
from orchestrator.domain.journal import Fail, HistoryEntry, Tried
from orchestrator.domain.task import Task, TaskState
from orchestrator.domain.value import Value, replace
from orchestrator.errors import BadAnswer
from orchestrator.flow.divergence import Choice, Comparison, NoChoice, compare
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.explain import Costs
from orchestrator.flow.fan_out import policy_of
from orchestrator.flow.on_record import Ending, OnRecord, Uncovered
from orchestrator.flow.past import Past
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.progress import no_progress, same_again
from orchestrator.flow.select_agents import select_agents
from orchestrator.flow.trial import Tryout

BY_HAND = "by hand"
"""`Usage.model` of a decision that a person made."""

Ask = Callable[[PlanRequest], Tryout]
"""Who decides now; see `orchestrator.flow.trial.Trial.ask`."""


class Verdict(StrEnum):
    """What a simulation found."""

    SAME = "same"
    """Every choice is the same."""
    OTHER = "other"
    """One is not; the first is told, and what follows as far as it is known."""
    NOT_ON_RECORD = "not_on_record"
    """The journal does not have what was asked; up to there every choice is the same."""


class StepSimulated(Value, frozen=True):
    """One step decided again."""

    number: int
    then: HistoryEntry | None
    """The step on record; None after the first difference, where there is none to compare with."""
    now: Tryout | None
    """None: nobody was asked then, so nobody was now."""
    comparison: Comparison | None
    sources: tuple[str, ...] = ()
    """After the first difference: where on record its answers stand."""
    note: str = ""


class Simulation(Value, frozen=True):
    """A task decided again."""

    task: Task
    verdict: Verdict
    steps: tuple[StepSimulated, ...]
    ending: Ending | None
    """How the task ends now; None: that is not known."""
    unknown: str
    """Why it is not known."""
    steps_then: int
    """Steps of its course on record."""
    then: Costs
    now: Costs
    then_compared: Costs
    """Of the steps up to the first difference, that one included …"""
    now_compared: Costs
    """… and of the same steps now."""

    @property
    def difference(self) -> StepSimulated | None:
        """The first step whose choice is another."""
        return next((one for one in self.steps if one.comparison is not None and not one.comparison.same), None)


def simulate(past: Past, ask: Ask, limits: StepLimits) -> Simulation:
    """Decide a task's present course again.

    Args:
        past: the task, which has ended.
        ask: who decides now.
        limits: bounds of a step, as the installation has them.

    Raises:
        PlannerRefused, PlannerUnavailable: as ``ask`` raises them.
    """
    return _Simulator(past, ask, limits).run()


class _Simulator:
    def __init__(self, past: Past, ask: Ask, limits: StepLimits) -> None:
        self.past = past
        self.ask = ask
        self.limits = limits
        self.record = OnRecord(past, policy_of(past.task, limits))
        self.steps: list[StepSimulated] = []
        self.idle = 0

    def run(self) -> Simulation:
        for entry in self.past.course:
            if not self._was_asked(entry):
                self.steps.append(StepSimulated(entry.step.number, entry, None, None, note=_why_nobody(entry)))
                self._follow(entry)
                continue
            question = self.past.question(entry)
            if not question.exact:
                why = f"what step {entry.step.number} was asked is not on record (an earlier version, or removed since)"
                return self._end(Verdict.NOT_ON_RECORD, None, why)
            request = replace(question.request, complaints=())
            now = self._decided(request)
            comparison = compare(then_of(entry), now.choice, request.history)
            note = _prompt_note(entry, now)
            self.steps.append(StepSimulated(entry.step.number, entry, now, comparison, note=note))
            if not comparison.same:
                return self._go_on(now, request, entry)
            self._follow(entry)
        task = self.past.task
        return self._end(Verdict.SAME, Ending(task.state, task.reason_code or "", task.reason or ""), "")

    def _was_asked(self, entry: HistoryEntry) -> bool:
        step = entry.step
        by_hand = step.decision is not None and step.decision.usage.model == BY_HAND
        return not by_hand and (step.asked is not None or step.decision is not None)

    def _follow(self, entry: HistoryEntry) -> None:
        """The choice is the same: what came back then counts."""
        self.record.use(entry)
        learned = any(not change.refused for change in self.past.learned(entry))
        self.idle = 0 if learned else self.idle + 1

    def _go_on(self, now: Tryout, request: PlanRequest, entry: HistoryEntry) -> Simulation:
        """From the first difference on, with the answers on record."""
        self.record.see_until(entry.step.decided_at or entry.step.finished_at)
        while True:
            if isinstance(now.choice, NoChoice):
                return self._end(Verdict.OTHER, _failed(now.choice), "")
            try:
                carried = self.record.carry_out(now.choice, request)
            except Uncovered as error:
                return self._end(Verdict.OTHER, None, f"step {request.step}: {error}")
            self.steps[-1] = replace(self.steps[-1], sources=carried.sources)
            if carried.ending is not None:
                return self._end(Verdict.OTHER, carried.ending, "")
            gained = set(carried.context.known_data) - set(request.context.known_data)
            self.idle = 0 if gained else self.idle + 1
            request = replace(
                request,
                step=request.step + 1,
                context=carried.context,
                history=[*request.history, carried.entry],
                wait_timed_out=False,
            )
            if stop := no_progress(self.idle, self.limits) or self._no_step_left(request.step):
                return self._end(Verdict.OTHER, _failed(stop), "")
            now = self._decided(request)
            self.steps.append(StepSimulated(request.step, None, now, None))

    def _decided(self, request: PlanRequest) -> Tryout:
        # Rules look at every agent; a model is offered no more than it would be by a worker.
        most = self.limits.prompt_agents
        agents = select_agents(request.agents, request.context, request.description, most)
        now = self.ask(replace(request, agents=agents, max_calls=self.limits.max_fan_out))
        stop = None if now.decision is None else same_again(now.decision, request.history, self.limits)
        return now if stop is None else replace(now, choice=NoChoice(stop.code, stop.reason))

    def _no_step_left(self, number: int) -> NoChoice | None:
        most = self.limits.budget.for_task(self.past.task.budget, self.past.task.raised).steps
        if most is None or number - self.past.task.steps_before <= most:
            return None
        return NoChoice("budget_steps", f"all of the task's {most} steps are used")

    def _end(self, verdict: Verdict, ending: Ending | None, unknown: str) -> Simulation:
        compared = [one for one in self.steps if one.comparison is not None and one.then is not None]
        return Simulation(
            task=self.past.task,
            verdict=verdict,
            steps=tuple(self.steps),
            ending=ending,
            unknown=unknown,
            steps_then=len(self.past.course),
            then=Costs.of_steps(self.past.course),
            now=_costs(self.steps),
            then_compared=Costs.of_steps([one.then for one in compared if one.then is not None]),
            now_compared=_costs(compared),
        )


def then_of(entry: HistoryEntry) -> Choice:
    """The choice on record."""
    if entry.step.decision is not None:
        return entry.step.decision
    return NoChoice(entry.step.error_code or "not_decided", entry.step.error or "no choice was made")


def _failed(why: NoChoice | Fail) -> Ending:
    reason = why.why if isinstance(why, NoChoice) else why.reason
    return Ending(TaskState.FAILED, why.code, reason)


def _costs(steps: Sequence[StepSimulated]) -> Costs:
    decided: list[Usage] = []
    in_vain: list[Tried] = []
    for one in steps:
        if one.now is None:
            continue
        if one.now.decision is not None:
            decided.append(one.now.usage)
        else:
            usage = one.now.usage
            tokens = usage.tokens_in + usage.tokens_out
            in_vain.append(Tried(usage.model, BadAnswer.code, "", tokens, usage.cost, usage.seconds))
    return Costs.of(decided, in_vain)


def _why_nobody(entry: HistoryEntry) -> str:
    if entry.step.decision is not None:
        return "a person decided"
    return "nothing had to be decided"


def _prompt_note(entry: HistoryEntry, now: Tryout) -> str:
    """Where the prompt is another, a difference may come from it."""
    then = "" if entry.step.decision is None else entry.step.decision.usage.prompt_version
    version = now.usage.prompt_version
    if not then or not version or then == version:
        return ""
    return f"then with prompt {then}, now with prompt {version}"
