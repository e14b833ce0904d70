"""Settings of whose turn it is, and of how much is asked of agents and models; part of `orchestrator.settings`."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from orchestrator.domain.turns import TurnRules
from orchestrator.setting_kinds import Counts, Rates, Seconds
from orchestrator.setting_kinds import setting as _setting


class TurnSettings(BaseModel):
    """Turns and limits; grouped as they are documented."""

    # -- turns
    ageing: Seconds = _setting(
        "ORCHESTRATOR_AGEING", 60.0, doc="Seconds of waiting for its turn that make a task one priority more urgent."
    )
    tenant_share: int = _setting(
        "ORCHESTRATOR_TENANT_SHARE",
        10,
        doc="Tasks in flight of one tenant that go before what other tenants have beyond theirs.",
        ge=1,
    )
    tenant_tasks: Counts = _setting(
        "ORCHESTRATOR_TENANT_TASKS",
        {},
        doc="Most tasks in flight by tenant: `*=200,acme=500`; `*` are all tenants not named. Empty: no cap.",
    )
    straight_on: float = _setting(
        "ORCHESTRATOR_STRAIGHT_ON",
        0.0,
        doc="Seconds for which a worker does a task's next steps itself, with no message for each, while nothing more "
        "urgent waits; 0: each step is a message of its own.",
        ge=0,
        le=3600,
    )

    # -- limits
    model_concurrency: Counts = _setting(
        "ORCHESTRATOR_MODEL_CONCURRENCY", {}, doc="Most questions with a model at once: `*=50,openai:gpt-5=10`."
    )
    model_rate: Rates = _setting(
        "ORCHESTRATOR_MODEL_RATE", {}, doc="Most questions a second to a model: `*=20,openai:gpt-5=2.5`."
    )
    breaker_failures: int = _setting(
        "ORCHESTRATOR_BREAKER_FAILURES", 10, doc="Failed calls in a row that make us spare an agent; 0: never.", ge=0
    )
    breaker_pause: Seconds = _setting(
        "ORCHESTRATOR_BREAKER_PAUSE", 10.0, doc="Seconds until one call tries whether a spared agent is well again."
    )
    breaker_patience: Seconds = _setting(
        "ORCHESTRATOR_BREAKER_PATIENCE", 600.0, doc="Seconds of failures after which steps fail instead of waiting."
    )

    @property
    def turn_rules(self) -> TurnRules:
        """Ageing, shares and caps."""
        named = dict(self.tenant_tasks)
        return TurnRules(timedelta(seconds=self.ageing), self.tenant_share, named.pop("*", None), named)
