"""Where Apache Kafka's jars are: resolved by Maven from pom.xml, as any build does.

python -m tests.kafka.classpath      prints the class path; exit code 3 and a reason where it cannot be had
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
TIMEOUT = 300.0
CANNOT = 3


class NoKafka(Exception):
    """Why the jars cannot be had."""


def resolve() -> str:
    """The class path of the broker. Raises `NoKafka`."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise NoKafka(f"there is no {program} on this machine")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "classpath"
        goal = ["dependency:build-classpath", f"-Dmdep.outputFile={found}"]
        # What is there already needs no network.
        for offline in (["--offline"], []):
            try:
                done = subprocess.run(
                    ["mvn", "-q", "-B", *offline, "-f", str(POM), *goal],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NoKafka(f"Maven did not resolve the jars within {TIMEOUT:.0f} s") from None
            if done.returncode == 0 and found.exists():
                return found.read_text(encoding="utf-8").strip()
    said = (done.stdout + done.stderr).strip().splitlines()
    raise NoKafka(f"Maven cannot resolve the jars: {said[0] if said else 'it says nothing'}")


if __name__ == "__main__":
    try:
        sys.stdout.write(resolve() + "\n")
    except NoKafka as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(CANNOT)
