"""Budgets: which bound counts, what runs low, and what a purse lets through."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.budget import Budget, Price, Resource, Spent, running_low
from orchestrator.errors import ConfigurationError
from orchestrator.llm.bounds import prompt_tokens_at_most
from orchestrator.llm.prices import load_prices
from orchestrator.llm.prompt import Prompt

DEFAULT = Budget(steps=50, tokens=1000, money=Decimal(1), seconds=None)


def test_the_smaller_bound_counts_and_what_people_raise_comes_on_top() -> None:
    budget = DEFAULT.for_task({"steps": 5, "tokens": 5000, "seconds": 60}, {"steps": 2, "tokens": 10})
    assert (budget.steps, budget.tokens, budget.money, budget.seconds) == (7, 1010, Decimal(1), Decimal(60))
    assert budget.delegations is None


def test_raising_what_is_not_bounded_bounds_nothing() -> None:
    assert Budget().for_task({}, {"tokens": 5}).tokens is None


def test_what_is_reserved_counts_as_used() -> None:
    spent = Spent(delegations=3, tokens=700, money=Decimal("0.5"), reserved_tokens=150)
    used = {one.resource: one for one in DEFAULT.used(spent, step=2, seconds=9)}
    assert used[Resource.TOKENS].spent == 850
    assert [one.resource for one in running_low(tuple(used.values()), 0.8)] == [Resource.TOKENS]
    assert str(used[Resource.MONEY]) == "money 0.5 of 1"
    assert used[Resource.STEPS].to_json() == {"what": "steps", "spent": 2, "limit": 50}


def test_reasons_have_names() -> None:
    names = [resource.code for resource in Resource]
    assert names == ["budget_steps", "budget_delegations", "budget_tokens", "budget_money", "budget_time"]


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_has_more_tokens_than_the_bound_says(system: str, user: str) -> None:
    # A tokenizer over bytes makes at least one token of one byte and never more than there are.
    bound = prompt_tokens_at_most(Prompt(system, user), [])
    assert bound >= len(user.encode("utf-8", "replace"))


def test_prices_are_found_by_the_longest_beginning() -> None:
    table = load_prices()
    assert table.of("openai:gpt-5-mini-2025-08-07") == Price(Decimal("0.00000025"), Decimal("0.000002"))
    assert table.of("openai:gpt-5-2025-08-07") == Price(Decimal("0.00000125"), Decimal("0.00001"))
    assert table.of("ollama:qwen3") == Price(Decimal(0), Decimal(0))
    assert table.of("nobody:model") is None
    assert table.as_of


def test_ones_own_prices_go_before_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text('models: {"openai:*": {prompt: 1, answer: 2}, "mine:x": {prompt: 3, answer: 0}}')
    table = load_prices(own)
    assert table.of("openai:gpt-5-mini") == Price(Decimal("0.000001"), Decimal("0.000002"))
    assert table.of("mine:x") == Price(Decimal("0.000003"), Decimal(0))
    assert table.of("ollama:qwen3") is not None


def test_prices_in_another_currency_stand_alone(tmp_path: Path) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text('{currency: EUR, models: {"mine:x": {prompt: 3, answer: 0}}}')
    table = load_prices(own)
    assert (table.currency, table.of("openai:gpt-5-mini")) == ("EUR", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "must be an object"),
        ("models: {}", "at least one model"),
        ("models: {a: {prompt: 1}}", "a must have `prompt` and `answer`"),
        ("models: {a: {prompt: x, answer: 1}}", "`prompt` must be a number"),
        ("models: {a: {prompt: 1, answer: -1}}", "`answer` must be a number"),
        ("models: [", "cannot be read"),
    ],
)
def test_a_wrong_price_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_prices(own)
