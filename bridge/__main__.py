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
from bridge.publisher import PublisherProcess
from orchestrator import __version__, fault_points, logs
from orchestrator.errors import ConfigurationError, OrchestratorError, PublisherEnded, TooManyBadRecords
from orchestrator.flow.accept import Accept
from orchestrator.settings import Settings, get_settings
from orchestrator.wiring import BridgeParts, bridge_parts, check_bridge

log = logging.getLogger("bridge")

STOPPED, DEFECT, WRONG_CONFIGURATION, FLOOD = 0, 1, 2, 3


def main(arguments: Sequence[str] = ()) -> int:
    """Build, run, and give the exit code."""
    if arguments:
        return _other_command(arguments)
    try:
        settings = get_settings()
        logs.configure(settings)
        fault_points.arm(settings.faults, settings.faults_folder)
        stop = _stop_on_signals()
        check_bridge(settings)
        publisher = PublisherProcess(stop)
        if publisher.is_this:
            publisher.run(settings)
            return STOPPED
        with publisher, bridge_parts(settings) as parts:
            _run(settings, parts, stop)
    except ConfigurationError as error:
        return _complain(error, WRONG_CONFIGURATION)
    except PublisherEnded as error:
        return _complain(error, DEFECT)
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
    consumer.run()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        # A second one ends the process at once: nothing is lost by it either.
        signal.signal(number, signal.SIG_DFL)
        # By another thread: this one may just be waiting on the event, whose lock is not to be had twice.
        threading.Thread(target=stop.set, name="stop", daemon=True).start()

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
