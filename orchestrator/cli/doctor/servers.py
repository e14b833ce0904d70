"""PostgreSQL, Redis and Kafka: reachable, of a version that works, and set up as the product needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.cli import parts
from orchestrator.cli.doctor.report import Finding, ok, unknown, wrong
from orchestrator.settings import Settings

OLDEST_POSTGRES = 14
OLDEST_REDIS = 7
OLDEST_VALKEY = 8


def check_postgres(settings: Settings) -> Iterator[Finding]:  # noqa: ARG001 - every check takes the settings
    """Reachable, new enough, may be written to, and its tables are this program's."""
    found = parts.database_health()
    yield _version("PostgreSQL", found.version, OLDEST_POSTGRES)
    if found.read_only:
        yield wrong(
            "PostgreSQL",
            "it takes no writes: a standby, or set to read-only",
            "Point DATABASE_URL to the primary (several hosts and target_session_attrs=read-write find it).",
        )
    current, wanted = parts.database_version()
    if current == wanted:
        yield ok("tables", f"up to date ({current})")
        if found.forbidden_tables:
            yield wrong(
                "tables",
                f"this role may not write to {', '.join(found.forbidden_tables)}",
                "Let the role that migrates own them, or grant SELECT, INSERT, UPDATE and DELETE on them.",
            )
    else:
        yield wrong(
            "tables",
            f"they are at {current or 'nothing'}, this program needs {wanted}",
            "Run `orchestrator db upgrade`; where the tables are newer, start the newer program.",
        )


def check_restores(settings: Settings) -> Iterator[Finding]:
    """Whether PostgreSQL went back to an older state, and what waits for a person because of it."""
    with parts.store() as store:
        found = store.doubts()
    if found.last is None:
        yield ok("restores", "PostgreSQL was never found to be older than before")
    else:
        last = found.last
        what = (
            f"{last.noticed_at.isoformat(timespec='seconds')}: {last.why} (noticed by {last.who}; {last.tasks} tasks "
            f"had not ended); {found.doubted} are doubted still, {found.waiting} wait for a person because of a call"
        )
        if found.waiting:
            yield wrong(
                "restores",
                what,
                "Say of each call what became of it: `orchestrator task list --waits-for person`, `task resolve`; or "
                "that nothing was lost: `task trust`.",
            )
        else:
            yield ok("restores", what)
    if not found.tells_position:
        yield unknown(
            "restores",
            "this server does not tell its timeline and how far its log is: only Kafka's offsets show an older state",
            "After a restore say so: `orchestrator db restored`. Or let the role run pg_current_wal_flush_lsn() and "
            "pg_walfile_name().",
        )
    elif not found.tells_identity and not settings.replicas_complete:
        yield unknown(
            "restores",
            "this role may not ask for the server's identifier: a copy on another server may pass for the same",
            "GRANT EXECUTE ON FUNCTION pg_control_system() to it; or say so yourself: `orchestrator db restored`.",
        )


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Reachable as Celery reaches it, new enough, and never throwing messages away."""
    info = parts.redis_info()
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
        yield wrong(
            "Redis",
            "it runs in cluster mode, which Celery cannot use as a broker",
            "Use one Redis or Valkey, with Sentinel for fail-over.",
        )
        return
    valkey = info.get("valkey_version")
    yield (
        _version("Redis", f"Valkey {valkey}", OLDEST_VALKEY)
        if valkey
        else _version("Redis", f"Redis {info.get('redis_version', '?')}", OLDEST_REDIS)
    )
    yield _eviction(info)
    yield _persistence(info)
    if info.get("role") == "slave":
        yield wrong("Redis", "this server is a replica and takes no writes", "Point REDIS_URL to the master.")
    del settings


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """Reachable, and the four topics are there."""
    missing = parts.missing_topics()
    servers = ",".join(settings.kafka_bootstrap_servers)
    yield ok("Kafka", f"{servers} answers ({settings.kafka_security_protocol})")
    if not missing:
        yield ok("topics", "all four are there")
    elif settings.kafka_create_topics:
        yield unknown("topics", f"not there yet: {', '.join(missing)}", "The bridge makes them when it starts.")
    else:
        yield wrong(
            "topics",
            f"not there, or this user may not see them: {', '.join(missing)}",
            "Create them, or set KAFKA_CREATE_TOPICS=1 and the bridge does.",
        )


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return unknown("Redis memory", "this user may not see the eviction policy", "It must be noeviction.")
    if policy != "noeviction":
        return wrong(
            "Redis memory",
            f"maxmemory-policy is {policy}: under pressure messages are thrown away, and come back only with the sweep",
            "Set maxmemory-policy to noeviction.",
        )
    limit = info.get("maxmemory_human") if info.get("maxmemory") else "no limit"
    return ok("Redis memory", f"noeviction, {info.get('used_memory_human', '?')} used, {limit}")


def _persistence(info: Mapping[str, Any]) -> Finding:
    append_only = "append-only file on" if info.get("aof_enabled") else "no append-only file"
    return ok("Redis persistence", f"{append_only} (nothing is lost without it; with it a restart is quicker over)")


def _version(subject: str, version: str, oldest: int) -> Finding:
    number = version.split()[-1].split(".")[0]
    if number.isdigit() and int(number) < oldest:
        return wrong(subject, f"{version} is too old", f"Use {oldest} or newer: see docs/supported-versions.md.")
    return ok(subject, version)
