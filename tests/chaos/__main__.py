"""``python -m tests.chaos``: run one storm, print the table. Exit code 0 where the promise held, 1 where not."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.chaos.report import table
from tests.chaos.servers import NotForStorms, Servers, given_servers, own_servers
from tests.chaos.storm import QUICK_BELOW, Storm, run
from tests.kafka.classpath import CANNOT, NoKafka, resolve


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="A seeded storm of faults, and its count."
    )
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="decides faults and arrivals")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of storm")
    parser.add_argument("--rate", type=float, default=4.0, help="new tasks a second")
    parser.add_argument(
        "--kafka",
        choices=("embedded", "apache", "auto"),
        default="auto",
        help="the broker: the embedded one (slow where it keeps records), Apache Kafka itself (needs Java and Maven), "
        "or Apache Kafka for storms of a minute and more where it can be had",
    )
    parser.add_argument(
        "--servers",
        choices=("own", "environment"),
        default=os.environ.get("CHAOS_SERVERS", "own"),
        help="start servers, or take those of DATABASE_URL (an empty database), REDIS_URL and KAFKA_BOOTSTRAP_SERVERS; "
        "the commands CHAOS_STOP_POSTGRES and CHAOS_START_POSTGRES, the same for REDIS and KAFKA, let it end them",
    )
    parser.add_argument("--pgbouncer", action="store_true", help="put PgBouncer in transaction mode before PostgreSQL")
    parser.add_argument("--json", action="store_true", help="the counts as one JSON object on standard output")
    parser.add_argument("--keep", type=Path, help="folder for data and logs, kept; default: one that is removed")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        verdict = run(Storm(options.seed, options.duration, options.rate, _servers(options)), folder, _tell)
    except NoKafka as reason:
        _tell(f"Apache Kafka cannot be had: {reason}")
        return CANNOT
    except NotForStorms as reason:
        _tell(f"Not on these servers: {reason}")
        return CANNOT
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        sys.stdout.write(json.dumps({"seed": options.seed, "holds": verdict.holds, **asdict(verdict)}) + "\n")
    else:
        sys.stdout.write(table(verdict) + "\n")
    return 0 if verdict.holds else 1


def _servers(options: argparse.Namespace) -> Callable[[Path], AbstractContextManager[Servers]]:
    if options.servers == "environment":
        return partial(given_servers, environment=os.environ)
    classpath = _classpath(options.kafka, options.duration)
    return partial(own_servers, classpath=classpath, pgbouncer=options.pgbouncer)


def _classpath(kafka: str, duration: float) -> str | None:
    if kafka == "embedded" or (kafka == "auto" and duration < QUICK_BELOW):
        return None
    try:
        return resolve()
    except NoKafka:
        if kafka == "apache":
            raise
        return None


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
