"""How the benchmark makes one figure of several rounds."""

from __future__ import annotations

from benchmarks.rounds import in_turn, ratio, typical


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> dict[str, int]:
        order.append(name)
        return {"turn": len(order)}

    found = in_turn(["raw", "ours"], 2, measure)

    assert order == ["raw", "ours", "raw", "ours"]
    assert found == {"raw": [{"turn": 1}, {"turn": 3}], "ours": [{"turn": 2}, {"turn": 4}]}


def test_the_typical_figure_is_the_median_of_each() -> None:
    rounds = [
        {"steps_per_second": 300.0, "wal": 7000, "cpu": {"total": 5.0}},
        {"steps_per_second": 500.0, "wal": 7300, "cpu": {"total": 3.0}},
        {"steps_per_second": 400.0, "wal": 7100, "cpu": {"total": 3.5}},
    ]

    assert typical(rounds) == {"steps_per_second": 400.0, "wal": 7100, "cpu": {"total": 3.5}}


def test_a_ratio_is_taken_within_each_round() -> None:
    # A machine twice as slow in the second round changes nothing.
    raw = [{"cpu": {"total": 1.0}}, {"cpu": {"total": 2.0}}, {"cpu": {"total": 1.0}}]
    ours = [{"cpu": {"total": 3.0}}, {"cpu": {"total": 6.0}}, {"cpu": {"total": 4.0}}]

    assert ratio(ours, raw, "cpu", "total") == 3.0
