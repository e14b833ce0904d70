"""The embedded Redis-compatible server: Valkey, with a password and an append-only file.

Redis is where a Celery worker takes its orders from, so it is closed to other users of the machine from the start.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from orchestrator.devstack import wheels
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.server import Place, Server


class ValkeyServer(Server):
    """A Valkey on loopback.

    Args:
        password: of the user ``default``; empty asks for none.
        databases: how many numbered databases there are.
        settings: further lines of valkey.conf (an ACL user, ``maxmemory`` …).
    """

    name = "Valkey"

    def __init__(
        self,
        keeper: Keeper,
        place: Place,
        *,
        password: str = "",
        databases: int = 16,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(keeper, place)
        self.password = password
        self._databases = databases
        self._settings = tuple(settings)

    def url(self, database: int = 0) -> str:
        """For ``REDIS_URL``."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{self.address}/{database}"

    def argv(self) -> Sequence[str]:
        """The command line; the password stays out of it, as every user may list it."""
        return (str(wheels.valkey_server()), str(self.folder / "valkey.conf"))

    def before_start(self) -> None:
        """Write its configuration."""
        lines = [
            f"bind {self.host}",
            f"port {self.port}",
            f"dir {_quoted(str(self.folder))}",
            f"databases {self._databases}",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",  # a broker may refuse, but never forget
            *([f"requirepass {_quoted(self.password)}"] if self.password else []),
            *self._settings,
        ]
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def answers(self) -> bool:
        """PING it, and see by its process id that it is ours."""
        login = f"AUTH {self.password}\r\n" if self.password else ""
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                connection.sendall(f"{login}PING\r\nINFO server\r\nQUIT\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        except OSError:
            return False
        return b"+PONG\r\n" in answer and f"process_id:{self.process.pid}\r\n".encode() in answer


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
