"""The only place where adapters are built and brought together.

Each entry point asks for its own parts: `bridge_parts` for ``python -m bridge``, `worker_parts` for Celery tasks
(once a process, after a fork), single ones for the command line. What is heavy is imported where it is built.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from orchestrator.domain.budget import Budget
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited, LimitState
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import PartialFailure
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.answer import Answers
from orchestrator.flow.by_hand import ByHand
from orchestrator.flow.cancel_calls import CallCanceler
from orchestrator.flow.control import Control
from orchestrator.flow.delegation_run import DelegationRunner
from orchestrator.flow.limits import LimitedPlanner, Limits, Wake
from orchestrator.flow.ports import Planner
from orchestrator.flow.resolve import Resolver
from orchestrator.flow.retention import Kept, Retention
from orchestrator.flow.step import StepLimits, StepRunner
from orchestrator.flow.sweep import Neighbours, Sweep, SweepLimits
from orchestrator.settings import Settings, get_settings

if TYPE_CHECKING:
    from orchestrator.agents import EventTypeRegistry, HttpAgentClient, Registry
    from orchestrator.limits import SharedLimits
    from orchestrator.store import PostgresStore
    from orchestrator.worker.dispatcher import CeleryDispatcher
    from orchestrator.worker.drain import Drain
    from orchestrator.worker.leases import Heartbeat
    from orchestrator.worker.straight_on import StraightOn

# -- single parts -----------------------------------------------------------------------------------------------------


def build_store(settings: Settings, application: str = "orchestrator") -> PostgresStore:
    """PostgreSQL; connects when first used. ``application`` is its name in ``pg_stat_activity``."""
    from orchestrator.store import PostgresStore, make_engine

    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool,
        statement_timeout=settings.statement_timeout,
        application=application,
    )
    complete = settings.replicas_complete
    return PostgresStore(engine, stall=settings.stall_for, turns=settings.turn_rules, replicas_complete=complete)


@contextmanager
def closing_store(settings: Settings) -> Iterator[PostgresStore]:
    """PostgreSQL for as long as the context lasts."""
    with closing(build_store(settings)) as store:
        yield store


def upgrade_database(settings: Settings) -> None:
    """Run all migrations. Raises `StoreUnavailable`."""
    from orchestrator.store import migrate

    migrate.upgrade(settings.database_url.get_secret_value())


def build_dispatcher(_settings: Settings) -> CeleryDispatcher:
    """Celery's broker. The app has its own reading of the same settings, by ``celeryconfig.py``."""
    from orchestrator.worker.app import app
    from orchestrator.worker.dispatcher import CeleryDispatcher

    return CeleryDispatcher(app)


def build_control(settings: Settings, store: PostgresStore) -> Control:
    """A person's hand on tasks."""
    return Control(store, build_dispatcher(settings))


def build_resolver(settings: Settings, store: PostgresStore) -> Resolver:
    """A person's word on delegations whose outcome is unknown. Raises `RegistryError`."""
    return Resolver(store, build_dispatcher(settings), build_agents(settings))


def build_by_hand(settings: Settings, store: PostgresStore) -> ByHand:
    """A person in the place of the planner, or of an agent. Raises `RegistryError`."""
    return ByHand(store, build_dispatcher(settings), build_agents(settings))


def build_answers(settings: Settings, store: PostgresStore) -> Answers:
    """What people answer to tasks."""
    return Answers(store, build_dispatcher(settings))


def build_retention(settings: Settings, store: PostgresStore) -> Retention:
    """What is removed when it is old; 0 days keep it for ever."""
    days = {
        Kept.TASKS: settings.keep_tasks,
        Kept.INBOX: settings.keep_inbox,
        Kept.UPDATES: settings.keep_updates,
        Kept.DEAD_LETTERS: settings.keep_dead_letters,
        Kept.AUDIT: settings.keep_audit,
    }
    return Retention(store, {kept: timedelta(days=number) for kept, number in days.items() if number})


def build_agents(settings: Settings) -> Registry:
    """agents.yaml. Raises `RegistryError` with everything that is wrong in it."""
    from orchestrator.agents import Registry

    return Registry.load(settings.agents_file)


def build_event_types(settings: Settings) -> EventTypeRegistry:
    """events.yaml. Raises `EventTypesError` with everything that is wrong in it."""
    from orchestrator.agents import EventTypeRegistry

    return EventTypeRegistry.load(settings.events_file)


def build_agent_client(settings: Settings) -> HttpAgentClient:
    """Calls agents over HTTP. Raises `ConfigurationError` where the CA file cannot be read."""
    from orchestrator.agents import HttpAgentClient

    return HttpAgentClient(concurrency=settings.concurrency, ca_file=settings.agents_ca)


def default_budget(settings: Settings) -> Budget:
    """What a task may spend where its message asks for no less."""
    return Budget(
        steps=settings.max_steps,
        delegations=settings.max_delegations,
        tokens=settings.max_tokens,
        money=settings.max_money,
        seconds=None if settings.max_seconds is None else Decimal(str(settings.max_seconds)),
    )


def step_limits(settings: Settings) -> StepLimits:
    """The bounds of a step."""
    return StepLimits(
        lease_for=settings.lease_for,
        budget=default_budget(settings),
        budget_warn=settings.budget_warn,
        idle_steps=settings.idle_steps,
        repeats=settings.repeats,
        prompt_agents=None if settings.plans_by_rules else settings.prompt_agents,
        bad_answers=settings.bad_answers,
        max_lost_leases=settings.max_lost_leases,
        max_context_bytes=settings.max_context_bytes,
        planner_retry=RetryPolicy(settings.model_attempts, 1.0, 60.0),
        max_fan_out=settings.max_fan_out,
        fan_out_at_once=settings.fan_out_at_once,
        partial_failure=PartialFailure(settings.partial_failure),
    )


def build_limits(settings: Settings, wake: Wake) -> SharedLimits:
    """Caps, rates and breakers in Redis; connects when first used."""
    from orchestrator.limits import BreakerRules, SharedLimits, connect
    from orchestrator.worker.broker import broker_tls, broker_url

    password = settings.redis_sentinel_password
    client = connect(
        broker_url(settings),
        tls=broker_tls(settings),
        master=settings.redis_sentinel_master,
        sentinel_password=None if password is None else password.get_secret_value(),
        connections=max(256, 2 * settings.concurrency),
    )
    breaker = BreakerRules(settings.breaker_failures, settings.breaker_pause, settings.breaker_patience)
    return SharedLimits(client, settings.redis_key_prefix, settings.lease_for, breaker, wake)


def limited_model(settings: Settings, model: str) -> Limited:
    """A model as the limits see it, by the settings for its name, else those for all others."""
    return Limited(
        "model",
        model,
        settings.model_concurrency.get(model, settings.model_concurrency.get("*")),
        settings.model_rate.get(model, settings.model_rate.get("*")),
    )


def limit_states(settings: Settings, names: Sequence[Limited]) -> Sequence[LimitState] | None:
    """How it stands with each; None where Redis does not answer."""
    limits = build_limits(settings, lambda _: None)
    try:
        return limits.look(names)
    finally:
        limits.stop()


def build_planner(settings: Settings, limits: Limits | None = None) -> Planner:
    """The planner of the settings. Raises `ConfigurationError` where its key or package is missing."""
    from orchestrator.llm.factory import make_planner

    if limits is None:
        return make_planner(settings)
    return make_planner(settings, lambda model, one: LimitedPlanner(one, limits, limited_model(settings, model)))


def check_database(settings: Settings) -> None:
    """Make sure that the tables are there. Raises `SchemaOutOfDate`, `StoreUnavailable`."""
    from orchestrator.store import migrate

    with closing_store(settings) as store:
        migrate.check(store.engine)


# -- the bridge -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BridgeParts:
    """What the bridge works with."""

    store: PostgresStore
    dispatcher: CeleryDispatcher
    event_types: EventTypeRegistry


def check_bridge(settings: Settings) -> None:
    """What the bridge needs of files and tables. Raises `ConfigurationError`."""
    build_event_types(settings)
    with suppress(StoreUnavailable):  # the bridge waits for PostgreSQL, and is told then
        check_database(settings)


@contextmanager
def bridge_parts(settings: Settings) -> Iterator[BridgeParts]:
    """Build the bridge's parts, and close them after use. Raises `ConfigurationError`: events.yaml is wrong."""
    dispatcher = build_dispatcher(settings)
    with closing(build_store(settings, "orchestrator-bridge")) as store, closing(dispatcher):
        yield BridgeParts(store, dispatcher, build_event_types(settings))


# -- the worker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What the Celery tasks of one process share."""

    store: PostgresStore
    heartbeat: Heartbeat
    client: HttpAgentClient
    planner: Planner
    limits: SharedLimits
    runner: StepRunner
    delegations: DelegationRunner
    canceler: CallCanceler
    dispatcher: CeleryDispatcher
    sweep: Sweep
    control: Control
    drain: Drain
    retention: Retention
    answers: Answers
    straight_on: StraightOn

    def close(self) -> None:
        """Close connections and end the heartbeat."""
        self.heartbeat.stop()
        self.limits.stop()
        self.client.close()
        if close := getattr(self.planner, "close", None):
            close()
        self.store.close()


def check_worker(settings: Settings) -> None:
    """Everything that a worker needs of files, secrets and tables, before it takes a message.

    Raises:
        ConfigurationError: naming what is wrong.
        StoreUnavailable: PostgreSQL is away for now; all else is right.
    """
    build_agents(settings).check_secrets()
    build_agent_client(settings).close()
    build_event_types(settings)
    build_planner(settings)
    check_database(settings)


def build_worker_parts(settings: Settings) -> WorkerParts:
    """Build a worker process's parts, the planner ready to answer."""
    from orchestrator.worker.drain import Drain
    from orchestrator.worker.identity import has_died, own_name, place
    from orchestrator.worker.leases import Heartbeat
    from orchestrator.worker.memory import recall
    from orchestrator.worker.straight_on import StraightOn

    store = build_store(settings, "orchestrator-worker")
    dispatcher = build_dispatcher(settings)
    recall(store, dispatcher)

    def wake(waiters: Sequence[Dispatch]) -> None:
        dispatcher.dispatch(store.wake(waiters))

    calls = build_limits(settings, wake)
    planner = build_planner(settings, calls)
    if prepare := getattr(planner, "prepare", None):
        prepare()
    client = build_agent_client(settings)
    heartbeat = Heartbeat(store, settings.lease_for)
    agents = build_agents(settings)
    owner = own_name()
    limits = step_limits(settings)
    drain = Drain(store, dispatcher, heartbeat.held, settings.stop_period)
    runner = StepRunner(
        store=store,
        planner=planner,
        agents=agents,
        event_types=build_event_types(settings),
        client=client,
        calls=calls,
        leases=heartbeat,
        owner=owner,
        limits=limits,
        stopping=drain.stopping,
    )
    delegations = DelegationRunner(
        store=store,
        agents=agents,
        client=client,
        calls=calls,
        leases=heartbeat,
        owner=owner,
        limits=limits,
        stopping=drain.stopping,
    )
    sweep = Sweep(
        store,
        dispatcher,
        SweepLimits(
            lease=settings.lease_for,
            stall=settings.stall_for,
            dispatch_window=settings.dispatch_window,
            event_wait=timedelta(seconds=settings.event_wait),
        ),
        Neighbours(place(), has_died),
    )
    return WorkerParts(
        store=store,
        heartbeat=heartbeat,
        client=client,
        planner=planner,
        limits=calls,
        runner=runner,
        delegations=delegations,
        canceler=CallCanceler(store=store, agents=agents, client=client, try_for=settings.lease_for),
        dispatcher=dispatcher,
        sweep=sweep,
        control=build_control(settings, store),
        drain=drain,
        retention=build_retention(settings, store),
        answers=build_answers(settings, store),
        straight_on=StraightOn(settings.straight_on, dispatcher.all_waiting),
    )


_worker_parts: dict[int, WorkerParts] = {}
"""By process id: a child that was forked builds its own."""
_building = threading.Lock()


def worker_parts() -> WorkerParts:
    """This process's parts, built when first asked for."""
    found = _worker_parts.get(os.getpid())
    if found is not None:
        return found
    with _building:
        if os.getpid() not in _worker_parts:
            _worker_parts[os.getpid()] = build_worker_parts(get_settings())
        return _worker_parts[os.getpid()]


def built_worker_parts() -> WorkerParts | None:
    """This process's parts where they are built; builds none."""
    return _worker_parts.get(os.getpid())


def close_worker_parts() -> None:
    """Close what `worker_parts` built in this process, if it did."""
    with _building:
        parts = _worker_parts.pop(os.getpid(), None)
    if parts is not None:
        parts.close()
