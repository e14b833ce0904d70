"""Kinds of settings: how their text becomes a value. The settings themselves are in `orchestrator.settings`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Seconds = Annotated[float, Field(gt=0)]


def _comma_list(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]


def _by_name(value: Any) -> Any:
    """``a=1,b=2`` as a mapping; a name ends at the last ``=``."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in _comma_list(value):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals or not name:
            raise ValueError(f"{part!r} is not name=number")
        if name in found:
            raise ValueError(f"{name!r} stands in it twice")
        found[name] = number
    return found


TenantTasks = Annotated[dict[str, Annotated[int, Field(ge=1, le=1_000_000)]], BeforeValidator(_by_name)]
