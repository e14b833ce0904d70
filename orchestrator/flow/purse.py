"""The purse of one execution of a step: reserves the most that a call of a model may cost, before it is made.

The reservation is written under the lease before the request leaves, so what is spent never exceeds the budget: not by
a crash, and not by a worker that lost its lease unawares (its successor counts what was reserved as spent). After the
call it is settled to what the provider says; where the provider says nothing, the reservation is what it cost.
"""

from __future__ import annotations

import logging
from decimal import ROUND_UP, Decimal

from orchestrator.domain.budget import Resource, running_low, shown
from orchestrator.errors import BudgetExhausted
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.planning import CallBound
from orchestrator.flow.turn import Turn

log = logging.getLogger(__name__)

_CENT_FRACTION = Decimal("0.00000001")


class TurnPurse:
    """Implements `orchestrator.flow.planning.Purse` over the task's row."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @property
    def low(self) -> bool:
        """Whether a cheaper model should be asked: the threshold of tokens or money is reached."""
        low = running_low(self._turn.used(), self._turn.limits.budget_warn)
        return any(one.resource in {Resource.TOKENS, Resource.MONEY} for one in low)

    def reserve(self, bound: CallBound) -> int:
        """Reserve for one call. See `orchestrator.flow.planning.Purse`."""
        budget, spent = self._turn.budget, self._turn.spent.and_reserved()
        answer = bound.answer_most
        if budget.tokens is not None:
            left = budget.tokens - spent.tokens
            answer = min(answer, left - bound.prompt)
            if answer < bound.answer_least:
                raise _exhausted(
                    Resource.TOKENS,
                    f"{shown(Decimal(max(0, left)))} of {budget.tokens:,} tokens are left; "
                    f"asking {bound.model} may take {bound.prompt + bound.answer_least:,}",
                )
        if budget.money is not None:
            if bound.price is None:
                raise _exhausted(
                    Resource.MONEY,
                    f"the task's money is bounded and the price of {bound.model} is not known: add it to "
                    "ORCHESTRATOR_PRICES",
                )
            money_left = budget.money - spent.money - bound.price.of(bound.prompt, 0)
            if bound.price.answer:
                answer = min(answer, int(money_left / bound.price.answer)) if money_left > 0 else -1
            if money_left < 0 or answer < bound.answer_least:
                left_in_all = max(Decimal(0), budget.money - spent.money)
                raise _exhausted(
                    Resource.MONEY,
                    f"{shown(left_in_all)} of {shown(budget.money)} is left; asking {bound.model} may cost "
                    f"{shown(bound.price.of(bound.prompt, bound.answer_least))}",
                )
        money = Decimal(0) if bound.price is None else bound.price.of(bound.prompt, answer)
        self._turn.reserve(spent.reserving(bound.prompt + answer, money.quantize(_CENT_FRACTION, ROUND_UP)))
        reach(FaultPoint.BUDGET_RESERVED, self._turn.task.task_id)
        return answer

    def settle(self, tokens: int, money: Decimal | None) -> None:
        """The call cost this. See `orchestrator.flow.planning.Purse`."""
        reserved = self._turn.spent
        if tokens > reserved.reserved_tokens or (money or 0) > reserved.reserved_money:
            log.warning(
                "budget.bound_exceeded",
                extra={
                    "task_id": self._turn.task.task_id,
                    "reserved_tokens": reserved.reserved_tokens,
                    "tokens": tokens,
                    "then": "counted as it is",
                },
            )
        self._turn.spent = reserved.plus(tokens, money or Decimal(0))

    def lose(self) -> None:
        """Nobody knows what the call cost. See `orchestrator.flow.planning.Purse`."""
        self._turn.spent = self._turn.spent.and_reserved()


def _exhausted(resource: Resource, message: str) -> BudgetExhausted:
    return BudgetExhausted(
        message,
        reason=resource.code,
        hint=f"To go on: `orchestrator task retry ID --raise-budget {resource.value}=N`.",
    )
