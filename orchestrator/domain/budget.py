"""Budgets: what a task may spend, what it has spent, and what ends it. Pure.

Five resources: steps, delegations, tokens, money, and seconds since the task was accepted. A bound is the smaller of
the installation's and the task's own, plus what a person has raised it by. Money is in the currency of the price
table (US dollars in the shipped one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from orchestrator.domain.value import Value


class Resource(StrEnum):
    """What a budget bounds; the keys of a message's ``budget``."""

    STEPS = "steps"
    DELEGATIONS = "delegations"
    TOKENS = "tokens"
    MONEY = "money"
    SECONDS = "seconds"

    @property
    def code(self) -> str:
        """The reason code of a task that has used it up."""
        return "budget_time" if self is Resource.SECONDS else f"budget_{self.value}"


class Spent(Value, frozen=True):
    """What a task has used of its budget; reserved is what a call under way may cost at most."""

    delegations: int = 0
    tokens: int = 0
    money: Decimal = Decimal(0)
    reserved_tokens: int = 0
    reserved_money: Decimal = Decimal(0)

    def and_reserved(self) -> Spent:
        """With what is reserved counted as spent: how a call is settled whose cost nobody told."""
        return Spent(self.delegations, self.tokens + self.reserved_tokens, self.money + self.reserved_money)

    def plus(self, tokens: int, money: Decimal) -> Spent:
        """With the cost of a call; nothing stays reserved."""
        return Spent(self.delegations, self.tokens + tokens, self.money + money)

    def reserving(self, tokens: int, money: Decimal) -> Spent:
        """With the upper bound of the next call reserved, and nothing else."""
        return Spent(self.delegations, self.tokens, self.money, tokens, money)


class Used(Value, frozen=True):
    """How far one resource is used up."""

    resource: Resource
    spent: Decimal
    limit: Decimal

    @property
    def share(self) -> float:
        """Spent of limit; 1 or more: used up."""
        return float(self.spent / self.limit) if self.limit else 1.0

    def to_json(self) -> dict[str, Any]:
        """As updates and ``task show --json`` tell it."""
        return {"what": self.resource.value, "spent": _number(self.spent), "limit": _number(self.limit)}

    def __str__(self) -> str:
        return f"{self.resource.value} {shown(self.spent)} of {shown(self.limit)}"


class Budget(Value, frozen=True):
    """Bounds; None: no bound."""

    steps: int | None = None
    delegations: int | None = None
    tokens: int | None = None
    money: Decimal | None = None
    seconds: Decimal | None = None

    def for_task(self, own: Mapping[str, Any], raised: Mapping[str, Any]) -> Budget:
        """The bounds of one task: the smaller of these and its ``own``, plus what people ``raised`` them by."""
        if not own and not raised:
            return self
        bounds: dict[str, Decimal | None] = {}
        for resource in Resource:
            named = [_decimal(bound) for bound in (getattr(self, resource), own.get(resource)) if bound is not None]
            bounds[resource] = min(named) + _decimal(raised.get(resource, 0)) if named else None
        return Budget(
            steps=_whole(bounds["steps"]),
            delegations=_whole(bounds["delegations"]),
            tokens=_whole(bounds["tokens"]),
            money=bounds["money"],
            seconds=bounds["seconds"],
        )

    def used(self, spent: Spent, *, step: int, seconds: float) -> tuple[Used, ...]:
        """How far each bounded resource is used up; ``step`` is the number of the present step."""
        found: list[Used] = []
        if self.steps is not None:
            found.append(Used(Resource.STEPS, Decimal(step), Decimal(self.steps)))
        if self.delegations is not None:
            found.append(Used(Resource.DELEGATIONS, Decimal(spent.delegations), Decimal(self.delegations)))
        if self.tokens is not None:
            tokens = Decimal(spent.tokens + spent.reserved_tokens)
            found.append(Used(Resource.TOKENS, tokens, Decimal(self.tokens)))
        if self.money is not None:
            found.append(Used(Resource.MONEY, spent.money + spent.reserved_money, self.money))
        if self.seconds is not None:
            found.append(Used(Resource.SECONDS, Decimal(str(round(seconds, 3))), self.seconds))
        return tuple(found)

    def ends_at(self, created_at: datetime) -> datetime | None:
        """When the time of a task accepted at ``created_at`` is over."""
        return None if self.seconds is None else created_at + timedelta(seconds=float(self.seconds))


class Price(Value, frozen=True):
    """What one token costs, in the currency of the price table."""

    prompt: Decimal
    answer: Decimal

    def of(self, prompt_tokens: int, answer_tokens: int) -> Decimal:
        """What a call costs."""
        return self.prompt * prompt_tokens + self.answer * answer_tokens


def running_low(used: Sequence[Used], share: float) -> tuple[Used, ...]:
    """The resources of which at least ``share`` (0 to 1) is used up."""
    return tuple(one for one in used if one.share >= share)


def shown(amount: Decimal) -> str:
    """An amount for people: 41,000 or 0.0123."""
    if amount == amount.to_integral_value():
        return f"{int(amount):,}"
    return f"{amount:,.6f}".rstrip("0").rstrip(".")


def _decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _whole(value: Decimal | None) -> int | None:
    return None if value is None else int(value)


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
