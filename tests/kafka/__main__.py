"""``python -m tests.kafka``: resolve the jars, start Apache Kafka, run the tests on it.

Exit code: that of pytest; 3 where there is no Java, no Maven, or the jars cannot be resolved.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.server import Place
from tests.kafka.apache import ApacheKafka
from tests.kafka.classpath import CANNOT, NoKafka, resolve
from tests.kafka.conftest import CLASSPATH
from tests.support.processes import ROOT
from tests.support.stack import KAFKA

ON_ANY_BROKER = ("tests/integration/test_bridge_trouble.py",)
NOT_HERE = "not (own_servers or it_stays_up_without or it_starts_without or lost_everything or killed_at_any_moment)"
"""Those that kill servers of their own bring the embedded broker; one is long, and shows nothing more here."""

FORGIVEN = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
"""kafka-python forgets sockets whose connection was refused: here the tests' own clients meet a killed broker."""


def main(arguments: list[str]) -> int:
    """Run them; further arguments go to pytest."""
    try:
        classpath = resolve()
    except NoKafka as reason:
        sys.stderr.write(f"Apache Kafka cannot be had: {reason}\n")
        return CANNOT
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        keeper = Keeper(f"kafka-{os.getpid()}", Path(folder) / "keeper.log")
        try:
            place = Place(Path(folder) / "data", Path(folder) / "kafka.log")
            broker = ApacheKafka(keeper, place, classpath)
            broker.start()
            env = {**os.environ, KAFKA: broker.bootstrap_servers, CLASSPATH: classpath}
            command = (sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-k", NOT_HERE, *FORGIVEN)
            # Options alone choose no tests.
            tests = () if any(not one.startswith("-") for one in arguments) else ("tests/kafka", *ON_ANY_BROKER)
            return subprocess.run((*command, *arguments, *tests), cwd=ROOT, env=env, check=False).returncode
        finally:
            keeper.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
