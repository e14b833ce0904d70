"""What can be seen of the bridges from outside: how many are in their group, and how far behind they are."""

from __future__ import annotations

from dataclasses import dataclass

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from orchestrator.kafka.connection import as_our_error, open_admin
from orchestrator.settings import Settings


@dataclass(frozen=True, slots=True)
class BridgeGroup:
    """The bridges' consumer group; ``behind`` is the number of records not yet committed, None before any commit."""

    members: int
    behind: int | None


def bridge_group(settings: Settings) -> BridgeGroup:
    """Look at the group of `KAFKA_GROUP_ID`; one that does not exist has no members.

    Raises:
        KafkaUnavailable, ConfigurationError: as `open_admin`, also where this user may not describe groups.
    """
    group = settings.kafka_group_id
    wanted = {settings.topic("tasks"), settings.topic("events")}
    admin = open_admin(settings)
    # Brokers name operations in a group's rights that kafka-python does not know, and it fails over them.
    admin._process_acl_operations = lambda described: described
    try:
        members = len(admin.describe_groups([group])[group]["members"])
        committed = {
            place: offset.offset
            for place, offset in admin.list_group_offsets({group: None})[group].items()
            if place.topic in wanted and offset.offset >= 0
        }
        ends = admin.list_partition_offsets({TopicPartition(*place): OffsetSpec.LATEST for place in committed})
    except KafkaError as error:
        raise as_our_error(settings, error) from error
    finally:
        admin.close()
    behind = sum(max(0, ends[place].offset - offset) for place, offset in committed.items())
    return BridgeGroup(members, behind if committed else None)
