"""``python -m bridge rewind``: have records read again, from an offset, a time or the oldest there is.

For what Kafka still has and PostgreSQL should: a table restored from a backup, records set aside that are good by now.
Reading again is harmless, since the inbox knows each record it took. The offsets are set where the bridges look for
them: in PostgreSQL, audited, and in the group. A bridge that runs would move them on at once, so none may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import click
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from bridge.position import mark
from orchestrator import fault_points, logs
from orchestrator.cli.command import who_and_why
from orchestrator.cli.failures import Misuse, failure_of
from orchestrator.cli.output import Output
from orchestrator.errors import NotAllowed, OrchestratorError
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.kafka.connection import as_our_error, open_consumer
from orchestrator.kafka.health import bridge_group
from orchestrator.settings import Settings, get_settings
from orchestrator.store import PostgresStore
from orchestrator.wiring import closing_store

TIMEOUT_MS = 10_000
Places = Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Moved:
    """One partition: where reading would have gone on (None: never read), and where it goes on now."""

    topic: str
    partition: int
    before: int | None
    now: int


@click.command(
    "python -m bridge rewind",
    epilog="Examples: python -m bridge rewind --to-time 2026-11-02T10:00:00+00:00 --why 'restored a backup'; "
    "python -m bridge rewind --topic tasks --partition 3 --to-offset 1200",
)
@click.option("--topic", type=click.Choice(["tasks", "events"]), help="Only this topic; default: both.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition; needs --topic.")
@click.option("--to-offset", type=click.IntRange(0), help="Go on at this offset; needs --partition.")
@click.option("--to-time", metavar="TIME", help="Go on at the first record since: 2026-11-02T10:00Z.")
@click.option("--to-beginning", is_flag=True, help="Go on at the oldest record that Kafka has.")
@click.option("--skip", is_flag=True, help="Also forward: what lies between is never read.")
@click.option("--force", is_flag=True, help="Also where the group has members, such as a bridge killed a moment ago.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@who_and_why
def rewind(
    topic: str | None,
    partition: int | None,
    to_offset: int | None,
    to_time: str | None,
    to_beginning: bool,
    skip: bool,
    force: bool,
    as_json: bool,
    who: str,
    why: str,
) -> None:
    """Have records of `tasks` and `events` read again. Stop all bridges first.

    Each record that was taken before is recognised and changes nothing.
    """
    if sum((to_offset is not None, to_time is not None, to_beginning)) != 1:
        raise Misuse("say one of --to-offset, --to-time, --to-beginning")
    if (partition is not None and topic is None) or (to_offset is not None and partition is None):
        raise Misuse("an offset belongs to one partition of one topic: --topic, --partition, --to-offset")
    since = None if to_time is None else _time(to_time)
    settings = get_settings()
    fault_points.arm(settings.faults, settings.faults_folder)
    logs.configure(settings.model_copy(update={"log_level": "CRITICAL"}))
    _refuse_while_bridges_run(settings, force)
    topics = [settings.topic("tasks"), settings.topic("events")]
    if topic is not None:
        topics = [settings.topic("tasks" if topic == "tasks" else "events")]
    try:
        consumer = open_consumer(settings)
        try:
            with closing_store(settings) as store:
                places = _places(consumer, topics, partition)
                moved = _moves(consumer, store, _targets(consumer, places, to_offset, since))
                _refuse_to_skip(moved, skip)
                store.set_offsets([(one.topic, one.partition, one.now) for one in moved], who=who, why=why)
                reach(FaultPoint.REWIND_WRITTEN)
                in_group = _tell_group(consumer, moved)
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        raise as_our_error(settings, error) from error
    _tell(Output(as_json), moved, in_group)


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code, as those of `orchestrator`."""
    out = Output("--json" in arguments)
    try:
        rewind.main(list(arguments), standalone_mode=False)
    except click.Abort:
        return 130
    except (click.ClickException, OrchestratorError) as error:
        failure = failure_of(error)
        out.failure(failure)
        return failure.exit_code
    return 0


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Misuse(f"--to-time: {error}", hint="Write 2026-11-02T10:00:00+00:00.") from error
    if found.tzinfo is None:
        raise Misuse("--to-time needs its offset from UTC", hint=f"Write {text}+00:00 for UTC.")
    return found


def _refuse_while_bridges_run(settings: Settings, force: bool) -> None:
    members = bridge_group(settings).members
    if members and not force:
        raise NotAllowed(
            f"{members} bridges are in the group {settings.kafka_group_id!r}: they would move the offsets on at once",
            hint="Stop them all first. One that was killed stays for KAFKA_SESSION_TIMEOUT: wait, or say --force.",
        )


def _places(consumer: KafkaConsumer, topics: Sequence[str], partition: int | None) -> list[TopicPartition]:
    found = [TopicPartition(name, number) for name in topics for number in consumer.partitions_for_topic(name) or ()]
    chosen = sorted(place for place in found if partition in (None, place.partition))
    if not chosen:
        what = ", ".join(topics) if partition is None else f"{topics[0]}/{partition}"
        raise NotAllowed(f"Kafka has no {what}", hint="See KAFKA_TOPIC_PREFIX and KAFKA_TOPIC_…")
    return chosen


def _targets(
    consumer: KafkaConsumer, places: Sequence[TopicPartition], offset: int | None, since: datetime | None
) -> Places:
    oldest: Places = consumer.beginning_offsets(list(places), timeout_ms=TIMEOUT_MS)
    if offset is not None:
        return {place: max(offset, oldest[place]) for place in places}
    if since is None:
        return oldest
    at = int(since.timestamp() * 1000)
    found = consumer.offsets_for_times(dict.fromkeys(places, at), timeout_ms=TIMEOUT_MS)
    # Where nothing is as new as that, there is nothing to read again.
    return {place: one.offset for place, one in found.items() if one is not None and one.offset >= 0}


def _moves(consumer: KafkaConsumer, store: PostgresStore, targets: Places) -> list[Moved]:
    stored = store.next_offsets([(place.topic, place.partition) for place in targets])
    moved = []
    for place, target in targets.items():
        known = [stored.get((place.topic, place.partition)), consumer.committed(place, timeout_ms=TIMEOUT_MS)]
        before = max((one for one in known if one is not None), default=None)
        moved.append(Moved(place.topic, place.partition, before, target))
    return moved


def _refuse_to_skip(moved: Sequence[Moved], skip: bool) -> None:
    forward = [one for one in moved if one.before is not None and one.now > one.before]
    if forward and not skip:
        first = forward[0]
        raise NotAllowed(
            f"{first.topic}/{first.partition} is read up to {first.before} only; going on at {first.now} would pass "
            f"over {first.now - (first.before or 0)} records",
            hint="Say --skip where that is wanted.",
        )


def _tell_group(consumer: KafkaConsumer, moved: Sequence[Moved]) -> bool:
    """Set the group's offsets with our mark; False where the broker refuses, since a member is still in the group."""
    topic_id = consumer._client.cluster.topic_id  # no public way leads there
    offsets = {}
    for one in moved:
        known = topic_id(one.topic)
        note = mark(None if known is None else str(known))
        offsets[TopicPartition(one.topic, one.partition)] = OffsetAndMetadata(one.now, note, -1)
    try:
        consumer.commit(offsets, timeout_ms=TIMEOUT_MS)
    except KafkaError:
        return False
    return True


def _tell(out: Output, moved: Sequence[Moved], in_group: bool) -> None:
    if out.as_json:
        out.document({"partitions": [asdict(one) for one in moved], "group": in_group})
        return
    rows = [
        (one.topic, str(one.partition), "–" if one.before is None else str(one.before), str(one.now)) for one in moved
    ]
    out.table(["topic", "partition", "was at", "goes on at"], rows)
    if not in_group:
        # Enough for going back: a bridge begins at the older of the two.
        out.note("  the group has a member still and keeps its own offsets; at the next start the older ones count")
    out.note("  → start the bridges: python -m bridge")
