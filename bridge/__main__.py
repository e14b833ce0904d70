"""``python -m bridge``: read Kafka, feed Celery, publish updates, until SIGTERM or Ctrl-C.

``python -m bridge rewind`` has records read again (`bridge.rewind`).

Exit codes of the bridge itself: 0 stopped as asked; 1 a defect of ours, with its traceback in the log; 2 settings,
files, database or credentials are wrong; 3 too many bad records in a row.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import kafka

from bridge.consumer import Consumer
from bridge.dead_letter import BadInARow
from bridge.decode import Decoder
from bridge.intake import BatchIntake
from bridge.updates import Publisher
from orchestrator import __version__, fault_points, logs
from orchestrator.errors import ConfigurationError, OrchestratorError, TooManyBadRecords
from orchestrator.flow.accept import Accept
from orchestrator.settings import Settings, get_settings
from orchestrator.wiring import BridgeParts, bridge_parts

log = logging.getLogger("bridge")

STOPPED, WRONG_CONFIGURATION, FLOOD = 0, 2, 3


def main(arguments: Sequence[str] = ()) -> int:
    """Build, run, and give the exit code."""
    if arguments:
        return _other_command(arguments)
    try:
        settings = get_settings()
        logs.configure(settings)
        fault_points.arm(settings.faults, settings.faults_folder)
        stop = _stop_on_signals()
        with bridge_parts(settings) as parts:
            _run(settings, parts, stop)
    except ConfigurationError as error:
        return _complain(error, WRONG_CONFIGURATION)
    except TooManyBadRecords as error:
        return _complain(error, FLOOD)
    log.info("bridge.stopped")
    return STOPPED


def _other_command(arguments: Sequence[str]) -> int:
    if arguments[0] != "rewind":
        sys.stderr.write("usage: python -m bridge, or python -m bridge rewind --help\n")
        return 0 if arguments[0] in ("-h", "--help") else WRONG_CONFIGURATION
    from bridge.rewind import main as rewind

    return rewind(arguments[1:])


def _run(settings: Settings, parts: BridgeParts, stop: threading.Event) -> None:
    accept = Accept(parts.store, parts.dispatcher, window=settings.dispatch_window, stall=settings.stall_for)
    intake = BatchIntake(Decoder.of(settings, parts.event_types), accept, BadInARow(settings.bridge_bad_in_a_row))
    consumer = Consumer(settings, intake, parts.store, parts.store.undispatched, stop)
    updates = _Background(Publisher(settings, parts.store, stop), stop)
    log.info(
        "bridge.starting",
        extra={
            "reads": [settings.topic("tasks"), settings.topic("events")],
            "publishes": [settings.topic("updates"), settings.topic("dead_letters")],
            "group": settings.kafka_group_id,
            "kafka": list(settings.kafka_bootstrap_servers),
            "version": __version__,
            "kafka_python": kafka.__version__,
        },
    )
    updates.start()
    try:
        consumer.run()
    finally:
        stop.set()
        updates.join()


class _Background:
    """The publisher's thread. A defect in it stops the bridge: half a bridge would look alive."""

    def __init__(self, publisher: Publisher, stop: threading.Event) -> None:
        self._publisher = publisher
        self._stop = stop
        self._defect: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end. Raises what it ended with."""
        self._thread.join()
        if self._defect is not None:
            raise self._defect

    def _run(self) -> None:
        try:
            self._publisher.run()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the main thread must learn of it
            self._defect = error
            self._stop.set()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        # A second one ends the process at once: nothing is lost by it either.
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def _complain(error: OrchestratorError, code: int) -> int:
    """Say it where a person looks, whatever the log's format."""
    text = f"bridge: {error}" + (f"\n        {error.hint}" if error.hint else "")
    sys.stderr.write(logs.mask(text) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
