"""kafka-python sums what it reads and writes in C: in Python that is a fifth of what the bridge does."""

from __future__ import annotations

import crc32c
from kafka.record import util


def test_kafka_python_takes_the_compiled_checksum() -> None:
    assert util.calc_crc32c.__defaults__ == (crc32c.crc32c,)
    assert util.calc_crc32c(memoryview(b"123456789")) == 0xE3069283  # CRC-32C's check value
