"""Writing what a task spends: reserved before a model is asked, settled with the step's next commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.budget import Spent
from orchestrator.domain.journal import StepCommit
from orchestrator.store.engine import jsonb, text

_RESERVE = text("""
    UPDATE tasks SET spent_tokens = :tokens, spent_money = :money, reserved_tokens = :reserved_tokens,
        reserved_money = :reserved_money
    WHERE task_id = :task_id AND epoch = :epoch AND lease_owner = :owner AND next_step = :step
      AND CASE WHEN state = 'processing' THEN true ELSE false END
""")

_SPEND = text("""
    UPDATE tasks SET spent_tokens = :tokens, spent_money = :money, reserved_tokens = 0, reserved_money = 0
    WHERE task_id = :task_id
""")

_COUNT_DELEGATIONS = text("UPDATE tasks SET spent_delegations = spent_delegations + :more WHERE task_id = :task_id")

_TRIED = text("""
    UPDATE steps SET tried = tried || CAST(:tried AS jsonb) WHERE task_id = :task_id AND step_number = :step
""")


_KEEP_PROMPT = text("""
    UPDATE tasks SET versions = versions || jsonb_build_object('prompt', CAST(:version AS text))
    WHERE task_id = :task_id AND NOT jsonb_exists(versions, 'prompt')
""")


def write_reservation(connection: Connection, fence: Mapping[str, Any], spent: Spent) -> bool:
    """Write what is spent and reserved; returns whether the lease still holds."""
    parameters = {
        **fence,
        "tokens": spent.tokens,
        "money": spent.money,
        "reserved_tokens": spent.reserved_tokens,
        "reserved_money": spent.reserved_money,
    }
    return connection.execute(_RESERVE, parameters).rowcount == 1


def write_spending(connection: Connection, keys: Mapping[str, Any], commit: StepCommit) -> None:
    """Write what a commit tells of the budget: new delegations, amounts, answers in vain. The step's row is there."""
    if commit.delegations:
        connection.execute(_COUNT_DELEGATIONS, {**keys, "more": len(commit.delegations)})
    version = commit.decision.usage.prompt_version if commit.decision is not None else ""
    if version and not version.startswith("rules"):
        # A task keeps the version of the prompt that its first decision was made with.
        connection.execute(_KEEP_PROMPT, {**keys, "version": version})
    if commit.tried:
        connection.execute(_TRIED, {**keys, "tried": jsonb([one.to_json() for one in commit.tried])})
    if commit.spent is not None:
        connection.execute(_SPEND, {**keys, "tokens": commit.spent.tokens, "money": commit.spent.money})
