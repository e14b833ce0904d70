"""Kinds of settings: how their text becomes a value, what it must look like. The settings are in `settings`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field


def setting(name: str, default: Any = ..., *, doc: str, **constraints: Any) -> Any:
    """A field read from the environment as ``name``; ``doc`` is its line in docs/settings.md."""
    return Field(default, alias=name, description=doc, **constraints)


Seconds = Annotated[float, Field(gt=0)]
Days = Annotated[float, Field(ge=0, le=36_500)]


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


Counts = Annotated[dict[str, Annotated[int, Field(ge=1, le=1_000_000)]], BeforeValidator(_by_name)]
"""Numbers by name; ``*`` is every other."""

Rates = Annotated[dict[str, Annotated[float, Field(gt=0, le=1_000_000)]], BeforeValidator(_by_name)]
"""Numbers a second by name; ``*`` is every other."""


def check_database_url(url: str) -> None:
    """Raise ValueError where it is no address of PostgreSQL."""
    scheme = urlsplit(url).scheme
    if scheme not in {"postgresql", "postgres", "postgresql+psycopg2"}:
        raise ValueError(f"DATABASE_URL must begin with postgresql://, this one begins with {scheme or 'nothing'}://")


def check_redis_url(url: str) -> None:
    """Raise ValueError where it is no address that can be Celery's broker."""
    schemes = {urlsplit(part).scheme for part in url.split(";")}
    if any("cluster" in scheme for scheme in schemes) or "cluster=true" in url:
        raise ValueError(
            "REDIS_URL: Redis Cluster cannot be Celery's broker (its queues need multi-key commands on one node); "
            "use one Redis or Valkey, with Sentinel for fail-over"
        )
    if not schemes <= {"redis", "rediss", "sentinel"}:
        raise ValueError("REDIS_URL must begin with redis://, rediss:// or sentinel://")
