"""Run the work on every contender in one run, print the table, and write ``build/bench.json``.

``make bench`` or ``python -m benchmarks [--tasks N] [--rounds N] [--only NAME …] [--skip PART …] [--json FILE]``. All
of it takes twenty minutes. A quick look: ``--tasks 300 --rounds 1 --skip in-flight load intake rows workers context``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.measure import Database, Usage, measured
from benchmarks.rounds import Figures, in_turn, ratio, typical
from benchmarks.servers import Bench, bench_servers, figures
from benchmarks.work import ROOT, STEPS
from orchestrator.settings import read_settings
from orchestrator.wiring import upgrade_database

RAW_THREADS = 16
IDLE_TASKS = 60
IN_FLIGHT = 500
IN_FLIGHT_DELAY = 1.0
PARTS = ("in-flight", "intake", "load", "workers", "context", "rows")
"""Parts of a run that can be left out, beside throughput and an idle task. Rows come last: PostgreSQL has work with a
million of them for minutes."""
INTAKE_RECORDS = 20_000
ROWS = (100_000, 1_000_000)
"""Waiting and finished tasks in the tables."""

OURS = {
    "ours": {},
    "ours_straight_on": {"ORCHESTRATOR_STRAIGHT_ON": "1"},
}
"""Ways to run the orchestrator → settings beside those of every run."""


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description="What a step costs, beside the same work without an engine.")
    parser.add_argument("--tasks", type=int, default=1500, help="tasks of each throughput run (default: 1500)")
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds of contenders in turn (default: 3)")
    parser.add_argument("--only", nargs="+", help="contenders: raw, celery, " + ", ".join(OURS))
    parser.add_argument("--skip", nargs="+", default=[], choices=PARTS, help="parts to leave out")
    parser.add_argument("--skip-in-flight", action="store_true", help="the same as --skip in-flight")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of ours (default: 2)")
    parser.add_argument("--threads", type=int, default=8, help="threads of each of our workers (default: 8)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="where figures go")
    options = parser.parse_args()
    options.skip_in_flight = options.skip_in_flight or "in-flight" in options.skip
    wanted = list(dict.fromkeys(options.only or ["raw", "celery", *OURS]))
    results: dict[str, Any] = {"machine": _machine(), "tasks": options.tasks, "rounds": options.rounds}
    with bench_servers() as bench:
        results["machine"]["postgresql"] = "default durability (fsync on, synchronous_commit on)"

        def measure(name: str) -> Figures:
            _say(f"{name} …")
            found = _throughput(bench, name, options)
            _say(json.dumps(found))
            return found

        rounds = in_turn(wanted, options.rounds, measure)
        results |= {name: typical(found) for name, found in rounds.items()}
        if "ours" in wanted:
            _grow(bench, options, results)
    _compare(results, rounds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    _print(results, wanted)
    return 0


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _throughput(bench: Bench, name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "raw":
        return _raw(bench, options)
    if name == "celery":
        return _celery(bench, options)
    return _ours(bench, options, OURS[name])


def _raw(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    def run(tasks: int, threads: int, delay: float) -> tuple[dict[str, Any], Usage]:
        program = bench.start(
            "benchmarks.raw", bench.database_url, bench.agent_url, tasks, threads, delay, env=os.environ
        )
        with _measured(bench, {"client": [program.pid]}, "client") as usage:
            found = figures(program)
        return found, usage

    run(100, RAW_THREADS, 0)  # warm up
    found, usage = run(options.tasks, RAW_THREADS, 0)
    result = _rates(found, usage)
    idle, _ = run(IDLE_TASKS, 1, 0)
    result["idle_ms"] = _percentiles(idle["task_seconds"])
    if not options.skip_in_flight:
        slow, slow_usage = run(IN_FLIGHT, IN_FLIGHT, IN_FLIGHT_DELAY)
        result["in_flight"] = {"seconds": slow["seconds"], "peak_mib": slow_usage.peak_mib}
    return result


def _celery(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    env = {
        **os.environ,
        "BENCH_DATABASE_URL": bench.database_url,
        "BENCH_REDIS_URL": bench.stack.env()["REDIS_URL"],
        "BENCH_AGENT_URL": f"{bench.agent_url}/0",
    }
    worker = ("-A", "benchmarks.plain_celery", "worker", "-c", "2", "--without-gossip", "--without-mingle")
    with bench.workers(worker, env=env, until="[queues]") as workers:
        figures(bench.start("benchmarks.plain_celery", 50, env=env))  # warm up
        program = bench.start("benchmarks.plain_celery", options.tasks, env=env)
        with _measured(bench, {"worker": workers}, "worker") as usage:
            found = figures(program)
        return _rates(found, usage)


def _env_of_ours(bench: Bench, options: argparse.Namespace, extra: dict[str, str]) -> dict[str, str]:
    pool = str(options.threads + 4)
    own = bench.settings(ORCHESTRATOR_CONCURRENCY=str(options.threads), ORCHESTRATOR_DATABASE_POOL=pool, **extra)
    return {**os.environ, **own}


def _grow(bench: Bench, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """What becomes of a step's cost under load and as things grow; each step a message of its own."""
    env = _env_of_ours(bench, options, {})
    bench.use_agents(0)

    def run(tasks: int, workers: int, arguments: tuple[str, ...]) -> dict[str, Any]:
        with bench.workers(*_our_workers(workers), env=env, until="[queues]") as pids:
            figures(bench.start("benchmarks.ours", 30, env=env))  # warm up
            program = bench.start("benchmarks.ours", tasks, *arguments, env=env)
            with _measured(bench, {"worker": pids}, "worker") as usage:
                found = figures(program)
        return {**_rates(found, usage), "task_ms": _percentiles(found["task_seconds"])}

    tasks = max(100, options.tasks // 3)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "intake": lambda: growth.intake(bench, env, INTAKE_RECORDS),
        "load": lambda: growth.under_load(run, results["ours"]["steps_per_second"]),
        "workers": lambda: growth.by_workers(run, tasks),
        "context": lambda: growth.by_context(run, tasks),
        "rows": lambda: growth.among_rows(bench, run, tasks, *ROWS),
    }
    for name, measure in parts.items():
        if name not in options.skip:
            _say(f"{name} …")
            results[name] = measure()
            _say(json.dumps(results[name]))


def _ours(bench: Bench, options: argparse.Namespace, extra: dict[str, str]) -> dict[str, Any]:
    env = _env_of_ours(bench, options, extra)
    bench.use_agents(0)
    upgrade_database(read_settings(env, dotenv=None))
    with bench.workers(*_our_workers(options.workers), env=env, until="[queues]") as workers:
        figures(bench.start("benchmarks.ours", 100, env=env))  # warm up
        program = bench.start("benchmarks.ours", options.tasks, env=env)
        with _measured(bench, {"worker": workers}, "worker") as usage:
            finished = figures(program)
        result = _rates(finished, usage)
        idle = figures(bench.start("benchmarks.ours", IDLE_TASKS, "one-after-another", env=env))
        result["idle_ms"] = _percentiles(idle["task_seconds"])
    if not options.skip_in_flight:
        result["in_flight"] = _ours_in_flight(bench, options, env)
    return result


def _ours_in_flight(bench: Bench, options: argparse.Namespace, env: dict[str, str]) -> dict[str, Any]:
    bench.use_agents(IN_FLIGHT_DELAY)
    threads = str(-(-IN_FLIGHT // options.workers))
    env = {**env, "ORCHESTRATOR_PROCESSES": str(options.workers), "ORCHESTRATOR_CONCURRENCY": threads}
    if "ORCHESTRATOR_STRAIGHT_ON" in env:
        # Longer than the agents take, or no step would be gone straight on to.
        env["ORCHESTRATOR_STRAIGHT_ON"] = str(10 * IN_FLIGHT_DELAY)
    with bench.workers(*_our_workers(1), env=env, until="[queues]") as workers:
        figures(bench.start("benchmarks.ours", 50, env=env))  # warm up
        program = bench.start("benchmarks.ours", IN_FLIGHT, env=env)
        with _measured(bench, {"worker": workers}, "worker") as usage:
            finished = figures(program)
    return {"seconds": finished["seconds"], "peak_mib": usage.peak_mib}


def _our_workers(count: int) -> Sequence[Sequence[str]]:
    common = ("-A", "orchestrator", "worker", "--without-gossip", "--without-mingle")
    return [(*common, "--hostname", f"w{number}@%h") for number in range(count)]


def _measured(bench: Bench, groups: dict[str, list[int]], watch: str) -> Any:
    servers = {"postgresql": bench.pids("PostgreSQL"), "broker": bench.pids("Valkey"), "agent": [bench.agent.pid]}
    return measured({**groups, **servers}, Database(bench.database_url), watch)


def _rates(found: dict[str, Any], usage: Usage) -> dict[str, Any]:
    steps, seconds = found["steps"], found["seconds"]
    # A program that has ended takes its CPU time with it: it says its own.
    cpu = {name: round(1000 * used / steps, 3) for name, used in {**usage.cpu, "client": found["cpu"]}.items()}
    # The agent is the same for all and no part of an engine.
    return {
        "steps_per_second": round(steps / seconds, 1),
        "cpu_ms_per_step": {**cpu, "total": round(sum(ms for name, ms in cpu.items() if name != "agent"), 3)},
        "commits_per_step": round(usage.commits / steps, 2),
        "wal_syncs_per_step": round(usage.wal_syncs / steps, 2),
        "wal_bytes_per_step": round(usage.wal_bytes / steps),
        "peak_mib": round(usage.peak_mib, 1),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)
        for percent in (50, 99)
    }


def _compare(results: dict[str, Any], rounds: dict[str, list[Figures]]) -> None:
    """Add the ratios to raw and to plain Celery, under the names that others read."""
    names = {"ours": ("throughput", "cpu"), "ours_straight_on": ("throughput_straight_on", "cpu_straight_on")}
    if "raw" not in rounds:
        return
    for name, found in rounds.items():
        results[name]["of_raw"] = {
            "steps_per_second": round(ratio(found, rounds["raw"], "steps_per_second"), 2),
            "cpu": round(ratio(found, rounds["raw"], "cpu_ms_per_step", "total"), 1),
        }
        if name not in names:
            continue
        speed, cpu = names[name]
        results[speed] = {"ratio_to_raw": round(ratio(found, rounds["raw"], "steps_per_second"), 3)}
        if "celery" in rounds:
            results[speed]["ratio_to_celery"] = round(ratio(found, rounds["celery"], "steps_per_second"), 3)
        results[cpu] = {"ratio_to_raw": round(ratio(found, rounds["raw"], "cpu_ms_per_step", "total"), 2)}
        if name == "ours":
            results["idle"] = results[name]["idle_ms"]
            results["commits"] = {
                "per_step": results[name]["commits_per_step"],
                "wal_bytes_per_step": results[name]["wal_bytes_per_step"],
            }
        if "in_flight" in results[name] and "in_flight" in results["raw"]:
            key = "in_flight" if name == "ours" else "in_flight_straight_on"
            results[key] = {
                "ratio_to_raw": round(ratio(found, rounds["raw"], "in_flight", "seconds"), 2),
                "peak_mib": round(results[name]["in_flight"]["peak_mib"], 1),
            }


def _print(results: dict[str, Any], wanted: Sequence[str]) -> None:
    lines = [
        f"{'':18} steps/s  of raw  CPU ms  of raw  (client worker postgresql broker)  commits  syncs  WAL B  "
        "idle p50/p99 ms  500 in flight  peak MiB"
    ]
    for name in wanted:
        one = results[name]
        speed, of_cpu = (
            f"{one['of_raw'][key]:6}" if "of_raw" in one else "     –" for key in ("steps_per_second", "cpu")
        )
        idle = f"{one['idle_ms']['p50']:6.1f} / {one['idle_ms']['p99']:<6.1f}" if "idle_ms" in one else " " * 15
        slow = f"{one['in_flight']['seconds']:8.1f} s" if "in_flight" in one else " " * 10
        cpu = one["cpu_ms_per_step"]
        apart = " ".join(f"{cpu.get(group, 0.0):6.2f}" for group in ("client", "worker", "postgresql", "broker"))
        lines.append(
            f"{name:18} {one['steps_per_second']:7.0f}  {speed} {cpu['total']:7.2f}  {of_cpu}  ({apart:>31}) "
            f"{one['commits_per_step']:8.2f} {one['wal_syncs_per_step']:6.2f} {one['wal_bytes_per_step']:6} {idle} "
            f"{slow:>14} {one['peak_mib']:9.0f}"
        )
    lines += [f"{name:18} {json.dumps(results[name])}" for name in PARTS if name in results]
    sys.stdout.write("\n".join(lines) + "\n")


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "commit": commit, "steps": STEPS}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
