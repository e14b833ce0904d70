"""A supervised child: started again when it dies, stopped whatever it does, never out of its log."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.devstack import server
from orchestrator.devstack.kafka import KafkaBroker
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.ports import free_port
from orchestrator.devstack.process import LOG_LIMIT, ManagedProcess, Restart, how_it_ended, log_tail
from orchestrator.devstack.server import Place
from orchestrator.devstack.valkey import ValkeyServer
from orchestrator.errors import DevStackError
from tests.support.processes import Processes, wait_for
from tests.support.stack_owner import alive


def test_delays_double_up_to_a_limit() -> None:
    restart = Restart(first=0.2, most=3.0)
    assert [restart.delay(n) for n in range(6)] == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
    assert restart.delay(10_000) == 3.0


def test_one_that_always_ends_is_started_again_and_again_each_time_later(keeper: Keeper, tmp_path: Path) -> None:
    told: list[str] = []
    process = ManagedProcess(
        keeper,
        "hasty",
        ["sh", "-c", "echo run; exit 7"],
        env={"PATH": os.environ["PATH"]},
        log=tmp_path / "hasty.log",
        restart=Restart(first=0.01, most=0.04),
        notice=told.append,
    )
    process.start()
    wait_for(lambda: process.restarts >= 3, what="three restarts")
    process.stop()
    runs = process.log_text().count("run")
    assert runs >= 3
    # The last one may have been stopped before it came to its own end.
    assert [line.partition(";")[0] for line in told[:3]] == ["hasty ended with exit code 7"] * 3
    assert told[0].startswith("hasty ended with exit code 7; starting it again in 0.0 s (log: ")
    process.stop()
    assert process.log_text().count("run") == runs, "stopped is stopped"


def test_stopping_while_it_waits_for_its_restart_keeps_it_stopped(keeper: Keeper, tmp_path: Path) -> None:
    told: list[str] = []
    process = ManagedProcess(
        keeper,
        "late",
        ["true"],
        env={"PATH": os.environ["PATH"]},
        log=tmp_path / "late.log",
        restart=Restart(first=0.2),
        notice=told.append,
    )
    process.start()
    wait_for(lambda: told, what="its end was noticed")
    process.stop()
    with pytest.raises(AssertionError):
        wait_for(lambda: process.restarts, timeout=0.5)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("trap '' TERM; echo up; while :; do sleep 0.1; done", -signal.SIGKILL),
        ("trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done", 5),
    ],
    ids=["deaf to SIGTERM", "ends by itself"],
)
def test_stopping_asks_first_and_kills_then(processes: Processes, script: str, code: int) -> None:
    process = processes.start("shell", ["sh", "-c", script], until="up")
    assert process.stop(grace=1.0) == code
    assert not process.running


def test_one_that_is_paused_is_stopped_in_order(processes: Processes) -> None:
    process = processes.start(
        "shell", ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"], until="up"
    )
    os.kill(process.pid, signal.SIGSTOP)
    assert process.stop(grace=10) == 5


def test_what_a_child_leaves_behind_is_killed_with_it(processes: Processes) -> None:
    process = processes.start(
        "parent", ["sh", "-c", "sleep 1000 & setsid sleep 1000 & echo children: $! up; wait"], until="up"
    )
    grandchild = int(process.log_text().split("children: ")[1].split()[0])
    assert alive(grandchild)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not alive(grandchild), what="the grandchild in a session of its own is gone")


def test_a_program_that_does_not_exist_is_named(processes: Processes) -> None:
    with pytest.raises(DevStackError, match=r"cannot start no-such-program: .*No such file"):
        processes.start("missing", ["no-such-program"])


def test_children_start_with_default_signals(processes: Processes) -> None:
    """A keeper that ignores SIGINT must not teach it to workers, who stop by it."""
    script = "import signal; print([signal.getsignal(s) for s in (signal.SIGHUP, signal.SIGTERM)]); signal.pause()"
    process = processes.python("child", "-c", script, until="]")
    assert process.log_text().count("SIG_DFL") == 2
    process.signal(signal.SIGINT)
    wait_for(lambda: not process.running, what="Ctrl-C ends it")


def test_a_long_log_is_put_aside(keeper: Keeper, tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    process = ManagedProcess(keeper, "short", ["echo", "new"], env={"PATH": os.environ["PATH"]}, log=log)
    process.start()
    assert process.wait(10) == 0
    assert process.log_text() == "new\n"
    assert (tmp_path / "long.log.1").stat().st_size == LOG_LIMIT + 1


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == "(no log)"
    log.write_bytes(b"")
    assert log_tail(log) == "(the log is empty)"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(1000)))
    assert log_tail(log, 2) == "line 998 \N{REPLACEMENT CHARACTER}\nline 999 \N{REPLACEMENT CHARACTER}"


def test_exit_codes_in_words() -> None:
    assert how_it_ended(None) == "still runs"
    assert how_it_ended(3) == "ended with exit code 3"
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(-63) == "was ended by signal 63"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on, who hangs up on everybody."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        hang_up = threading.Thread(target=_hang_up, args=(somebody,))
        hang_up.start()
        yield somebody.getsockname()[1]
        somebody.shutdown(socket.SHUT_RDWR)
        hang_up.join()


def _hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_port_of_ones_choice_that_is_taken_is_an_error(keeper: Keeper, tmp_path: Path, taken_port: int) -> None:
    place = Place(tmp_path / "valkey", tmp_path / "valkey.log", port=taken_port)
    with pytest.raises(DevStackError, match=rf"Valkey ended .* started on port {taken_port};(?s:.*)in use"):
        ValkeyServer(keeper, place).start()


@pytest.mark.parametrize("kind", [ValkeyServer, KafkaBroker], ids=["Valkey", "Kafka broker"])
def test_a_port_that_is_taken_at_the_last_moment_is_given_up_for_another(
    keeper: Keeper,
    tmp_path: Path,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ValkeyServer] | type[KafkaBroker],
) -> None:
    ports = iter([taken_port, free_port()])
    monkeypatch.setattr(server, "free_port", lambda _preferred: next(ports))
    own = kind(keeper, Place(tmp_path / "data", tmp_path / "log"))
    own.start()
    try:
        assert own.port != taken_port
        assert own.answers()
    finally:
        own.stop()
