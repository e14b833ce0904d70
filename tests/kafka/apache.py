"""An Apache Kafka broker in KRaft mode: one node that is broker and controller, with its log in a folder."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Sequence

from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.ports import free_port
from orchestrator.devstack.process import plain_environment
from orchestrator.devstack.server import Place, Server

CLUSTER = "q1Sh-9_ISia_zwGINzRvyQ"
JAVA = ("java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Small, and soon up."""


class ApacheKafka(Server):
    """Without login, on loopback only."""

    name = "Apache Kafka"
    grace = 20.0

    def __init__(self, keeper: Keeper, place: Place, classpath: str) -> None:
        super().__init__(keeper, place)
        self._java = (*JAVA, "-cp", classpath)
        self._controller_port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        """For ``KAFKA_BOOTSTRAP_SERVERS``."""
        return self.address

    def argv(self) -> Sequence[str]:
        """The command line."""
        return (*self._java, "kafka.Kafka", str(self.folder / "server.properties"))

    def before_start(self) -> None:
        """Write its configuration; format its log where that is new."""
        properties = self.folder / "server.properties"
        properties.write_text("\n".join(f"{name}={value}" for name, value in self._properties().items()) + "\n")
        if not (self.folder / "log" / "meta.properties").exists():
            command = (*self._java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties))
            subprocess.run(command, env=plain_environment(), check=True, capture_output=True, timeout=120)

    def _properties(self) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{self.host}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{self.host}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.folder / "log",
            "auto.create.topics.enable": "false",
            # One node: what is internal has one copy, and few parts to open.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            # Tests wait for members that are killed.
            "group.min.session.timeout.ms": 1000,
            "group.initial.rebalance.delay.ms": 0,
        }

    def answers(self) -> bool:
        """Ask for the versions it speaks (API 18, version 0)."""
        request = struct.pack(">hhih", 18, 0, 7, -1)
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                connection.sendall(struct.pack(">i", len(request)) + request)
                answer = connection.recv(8)
        except OSError:
            return False
        return len(answer) == 8 and struct.unpack(">ii", answer)[1] == 7
