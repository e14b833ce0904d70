"""The parts that commands work with, brought from the wiring when they are needed, and closed after use.

Everything heavy is imported in here and inside functions, so that `--help` stays quick and a command that only asks
PostgreSQL never loads Kafka's or Celery's libraries.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

from orchestrator.cli.output import Output
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.domain.agent import AgentSpec
    from orchestrator.domain.budget import Budget
    from orchestrator.domain.event_type import EventType
    from orchestrator.domain.limits import LimitState
    from orchestrator.flow.answer import Answers
    from orchestrator.flow.by_hand import ByHand
    from orchestrator.flow.control import Control
    from orchestrator.flow.execution import StepLimits
    from orchestrator.flow.judge import Case
    from orchestrator.flow.ports import AgentClient, DeadLetterStore, Planner, PlanRequest, ReadStore
    from orchestrator.flow.question_port import QuestionStore
    from orchestrator.flow.resolve import Resolver
    from orchestrator.flow.restores import DoubtStore, Restores
    from orchestrator.flow.retention import Retention
    from orchestrator.flow.sweep import SweepStore
    from orchestrator.flow.trial import Trial
    from orchestrator.kafka.health import BridgeGroup
    from orchestrator.settings import Settings
    from orchestrator.store.health import DatabaseHealth

    class Store(ReadStore, DeadLetterStore, DoubtStore, Protocol):
        """What the commands read, the dead letters, and what is doubted."""


def settings() -> Settings:
    """The settings, read once; from then on logs and errors mask their secrets.

    Raises:
        ConfigurationError: one of them is missing or wrong.
    """
    from orchestrator.settings import get_settings

    return _in_force(get_settings())


def model_settings() -> Settings:
    """The same for commands that ask models alone: they need no DATABASE_URL."""
    from orchestrator.settings import model_settings as read

    return _in_force(read())


def _in_force(found: Settings) -> Settings:
    from orchestrator import fault_points, logs

    fault_points.arm(found.faults, found.faults_folder)
    if "log_level" in found.model_fields_set:
        logs.configure(found)
        return found
    # The result is what a person came for. The flow speaks up about trouble; a library's trouble comes as our error.
    logs.configure(found.model_copy(update={"log_level": "CRITICAL" if _as_json() else "WARNING"}))
    for library in ("kafka", "kombu", "celery"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return found


def topic(kind: Literal["tasks", "events", "updates", "dead_letters"]) -> str:
    """A topic's full name."""
    return settings().topic(kind)


def quoted(task_id: str) -> str:
    """A task id as it is typed in a shell."""
    return shlex.quote(task_id)


def _as_json() -> bool:
    context = click.get_current_context(silent=True)
    output = context.find_object(Output) if context else None
    return bool(output and output.as_json)


@contextmanager
def store() -> Iterator[Store]:
    """PostgreSQL, for as long as the context lasts.

    Raises:
        StoreUnavailable: by every call, where it cannot be reached.
    """
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield found
    finally:
        found.close()


@contextmanager
def control() -> Iterator[Control]:
    """A person's hand on tasks: PostgreSQL and, for the doorbell, Celery's broker."""
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield wiring.build_control(settings(), found)
    finally:
        found.close()


@contextmanager
def resolver() -> Iterator[Resolver]:
    """A person's word on calls whose outcome is unknown: PostgreSQL, agents.yaml and Celery's broker."""
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield wiring.build_resolver(settings(), found)
    finally:
        found.close()


@contextmanager
def restores() -> Iterator[Restores]:
    """A person's word on what a restored PostgreSQL has forgotten."""
    from orchestrator import wiring
    from orchestrator.flow.restores import Restores

    with wiring.closing_store(settings()) as found:
        yield Restores(found, wiring.build_dispatcher(settings()))


@contextmanager
def by_hand() -> Iterator[ByHand]:
    """A person in the place of the planner, or of an agent: PostgreSQL, agents.yaml and Celery's broker."""
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield wiring.build_by_hand(settings(), found)
    finally:
        found.close()


def agent_output(raw: bytes) -> Any:
    """A reply as typed by a person, read as strictly as an agent's own.

    Raises:
        Misuse: it is no JSON that PostgreSQL can keep.
    """
    from orchestrator.agents.reply import BadReply, parse
    from orchestrator.cli.failures import Misuse

    try:
        return parse(raw)
    except BadReply as error:
        raise Misuse(f"the reply is no JSON that can be kept: {error}") from error


@contextmanager
def answers() -> Iterator[Answers]:
    """Answering what tasks ask: PostgreSQL and, for the doorbell, Celery's broker."""
    from orchestrator import wiring

    with wiring.closing_store(settings()) as found:
        yield wiring.build_answers(settings(), found)


@contextmanager
def question_store() -> Iterator[QuestionStore]:
    """PostgreSQL, for what tasks ask people."""
    from orchestrator import wiring

    with wiring.closing_store(settings()) as found:
        yield found


@contextmanager
def retention() -> Iterator[Retention]:
    """What removes old rows."""
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield wiring.build_retention(settings(), found)
    finally:
        found.close()


@contextmanager
def sweep_store() -> Iterator[SweepStore]:
    """PostgreSQL as the sweep sees it."""
    from orchestrator import wiring

    found = wiring.build_store(settings())
    try:
        yield found
    finally:
        found.close()


def default_budget() -> Budget:
    """What a task may spend where its message asks for no less."""
    from orchestrator import wiring

    return wiring.default_budget(settings())


def upgrade_database() -> tuple[str | None, str]:
    """Migrate; the version before and after."""
    from orchestrator.store import migrate

    url = settings().database_url.get_secret_value()
    before = migrate.current(url)
    migrate.upgrade(url)
    return before, migrate.head()


def database_version() -> tuple[str | None, str]:
    """The tables' version (None: there are none) and this program's."""
    from orchestrator.store import migrate

    return migrate.current(settings().database_url.get_secret_value()), migrate.head()


def database_health() -> DatabaseHealth:
    """What PostgreSQL says of itself and of our rights."""
    from orchestrator.store.health import database_health as look

    return look(settings())


def produce(to: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    """Put one record into a topic (its full name) and wait until the broker confirmed it."""
    from orchestrator.kafka.producer import produce as send

    send(settings(), to, key, value, headers)


def missing_topics() -> Sequence[str]:
    """Which of the four topics are not there."""
    from orchestrator.kafka.topics import missing_topics as look

    return look(settings())


def bridge_group() -> BridgeGroup:
    """The bridges' consumer group."""
    from orchestrator.kafka.health import bridge_group as look

    return look(settings())


def redis_info() -> Mapping[str, Any]:
    """What Redis says of itself (INFO), asked over the connection that Celery uses.

    Raises:
        DispatchFailed: it cannot be reached, or refuses us.
    """
    from orchestrator import wiring

    return wiring.build_dispatcher(settings()).broker_info()


def ping_workers() -> Sequence[str]:
    """Names of the Celery workers that answer within two seconds."""
    from orchestrator import wiring

    return wiring.build_dispatcher(settings()).workers()


def backlog() -> int:
    """Step messages in Celery's broker."""
    from orchestrator import wiring

    return wiring.build_dispatcher(settings()).backlog()


def agents() -> Sequence[AgentSpec]:
    """Every entry of agents.yaml, disabled ones included."""
    from orchestrator import wiring

    return wiring.build_agents(settings()).all()


def limit_states(agents: Sequence[AgentSpec]) -> Mapping[str, LimitState]:
    """How it stands with these agents' limits, by name; empty where Redis does not answer."""
    from orchestrator import wiring
    from orchestrator.domain.limits import limited_agent

    states = wiring.limit_states(settings(), [limited_agent(agent) for agent in agents])
    return {} if states is None else {agent.name: state for agent, state in zip(agents, states, strict=True)}


def mask_agents_secrets() -> None:
    """Have the secrets that agents.yaml names masked, beside those of the settings."""
    from orchestrator.logs import mask
    from orchestrator.settings import environment_value

    for agent in (known_agents() or {}).values():
        value = None if agent.auth is None else environment_value(agent.auth.env)
        if value is not None:
            mask.add(value, value.partition(":")[2])


def known_agents() -> Mapping[str, AgentSpec] | None:
    """The entries by name; None where agents.yaml cannot be read."""
    try:
        return {agent.name: agent for agent in agents()}
    except ConfigurationError:
        return None


@contextmanager
def agent_client() -> Iterator[AgentClient]:
    """Calls agents over HTTP."""
    from orchestrator import wiring

    client = wiring.build_agent_client(settings())
    try:
        yield client
    finally:
        client.close()


def event_types() -> Sequence[EventType]:
    """Every entry of events.yaml."""
    from orchestrator import wiring

    return wiring.build_event_types(settings()).all()


def planner() -> Planner:
    """The planner of the settings. Raises `ConfigurationError` where its key or package is missing."""
    from orchestrator import wiring

    return wiring.build_planner(settings())


@contextmanager
def trial(model: str | None, prompt: str | None) -> Iterator[Trial]:
    """A model on trial: see `orchestrator.wiring_trials.trial`."""
    from orchestrator import wiring_trials

    with wiring_trials.trial(settings(), model, prompt) as found:
        yield found


@contextmanager
def trials(variants: Sequence[tuple[str | None, str | None]]) -> Iterator[Sequence[Trial]]:
    """Models on trial side by side, each by model and prompt; no server is needed."""
    from contextlib import ExitStack

    from orchestrator import wiring_trials

    with ExitStack() as opened:
        found = model_settings()
        yield [opened.enter_context(wiring_trials.trial(found, model, prompt)) for model, prompt in variants]


def cases(path: Path | None) -> Sequence[Case]:
    """The cases of a file; None: the starter set. Raises `CasesError`."""
    from orchestrator import wiring_trials

    return wiring_trials.cases(path)


def starter_cases() -> str:
    """The starter set as it is written."""
    from orchestrator import wiring_trials

    return wiring_trials.starter_path().read_text(encoding="utf-8")


def trial_limits(model: str) -> StepLimits:
    """The bounds of a step that this model decides."""
    from orchestrator import wiring_trials

    return wiring_trials.trial_limits(settings(), model)


def question(request: PlanRequest) -> Mapping[str, Any]:
    """A question as a model reads it: ``prompt_version``, ``system``, ``user``, ``tools``."""
    from orchestrator.llm.question import question_of

    return question_of(request)
