"""Every command of the README runs, in its order, as a newcomer would type them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from orchestrator.settings import Settings
from tests.support.documents import blocks, commands, type_in
from tests.support.processes import ROOT, wait_for
from tests.support.system import PROGRAMS, System

LASTING = {
    "python -m bridge": "bridge",
    "celery -A orchestrator worker": "worker",
    "celery -A orchestrator beat": "beat",
    "celery -A orchestrator flower": "flower",
}
REFUSED = {"company_name": "Delta Marine Trading FZE", "purchase_approval": {"approved_by": "me"}}


@pytest.mark.timeout(400)  # some twenty commands, each a process of its own
def test_the_commands_of_the_readme(system: System) -> None:
    typed = [command for command in commands("README.md") if not command.startswith("make ")]
    assert set(LASTING) <= set(typed)
    outputs: dict[str, str] = {}
    for command in typed:
        if command in LASTING:
            program = LASTING[command]
            process = system.processes.start(program, ["bash", "-c", f"exec {command}"], env=shell(system))
            system.processes.wait_for_log(process, PROGRAMS[program][1])
            continue
        if "TASK_ID" in command:
            command = command.replace("TASK_ID", prepared(system, command))
        outputs[command] = type_in(command, system.folder, system.env)
    wait_for(lambda: system.data("waiting-1").get("seen_by") == "ann", what="the event is in the context")
    assert "all is well" in outputs["orchestrator doctor"]


def shell(system: System) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**system.env, "PATH": path}


def prepared(system: System, command: str) -> str:
    """A task that a command may be tried on."""
    if " retry " in command:
        system.produce_task("refused-1", required_fields=["contract_id"], event_data=REFUSED)
        system.wait_for_state("refused-1", "failed")
        return "refused-1"
    if " cancel " in command or " event " in command:
        system.produce_task("waiting-1", required_fields=["purchase_approval"])
        system.wait_for_state("waiting-1", "waiting")
        return "waiting-1"
    system.wait_for_state("readme-1", "completed")
    return "readme-1"


def test_the_message_of_the_readme_is_a_task(system: System) -> None:
    system.start("bridge", "worker", "beat")
    (message,) = blocks("README.md", "json")
    system.produce("tasks", message.text.encode())
    system.wait_for_state("unique-task-id", "waiting")
    system.produce_event("unique-task-id", "supplier.approved", approval={"approved_by": "me"})
    system.wait_for_state("unique-task-id", "completed")


def test_the_settings_of_the_readme_are_settings() -> None:
    known = {str(info.alias) for info in Settings.model_fields.values()}
    (block,) = blocks("README.md", "ini")
    assert {line.partition("=")[0] for line in block.text.splitlines()} <= known


def test_every_document_that_the_readme_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
