"""Models on trial, brought together: for `task simulate`, `task export` and `eval`. They touch no task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.value import replace
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.trial import Trial
from orchestrator.settings import Settings
from orchestrator.wiring import step_limits

if TYPE_CHECKING:
    from orchestrator.flow.judge import Case
    from orchestrator.llm.prompts import Instructions


@contextmanager
def trial(settings: Settings, model: str | None, prompt: str | None) -> Iterator[Trial]:
    """A planner on trial, closed after use.

    Args:
        settings: how models are asked.
        model: ``provider:model`` or ``rules:``; None: the first of the settings.
        prompt: a file with instructions, or the number of a shipped version; None: as each question has it.

    Raises:
        ConfigurationError: the model cannot be set up, or the prompt cannot be read.
    """
    from orchestrator.llm.factory import make_trial_planner

    name = model if model is not None else settings.models[0]
    planner = make_trial_planner(settings, name, _instructions(prompt))
    if prepare := getattr(planner, "prepare", None):
        prepare()
    try:
        yield Trial(name, planner, settings.bad_answers, RetryPolicy(settings.model_attempts, 1.0, 60.0))
    finally:
        if close := getattr(planner, "close", None):
            close()


def _instructions(prompt: str | None) -> Instructions | None:
    from orchestrator.llm.prompts import read_instructions

    return None if prompt is None else read_instructions(prompt)


def trial_limits(settings: Settings, model: str) -> StepLimits:
    """The bounds of a step that this model decides: a model's question offers fewer agents than rules look at."""
    return replace(step_limits(settings), prompt_agents=None if model == "rules:" else settings.prompt_agents)


def starter_path() -> Path:
    """The file of cases that ships."""
    from orchestrator.agents import case_file

    return Path(case_file.__file__).with_name("starter_cases.yaml")


def cases(path: Path | None) -> Sequence[Case]:
    """The cases of a file; None: those that ship.

    Raises:
        CasesError: naming every problem of the file.
    """
    from orchestrator.agents.case_file import load_cases

    return load_cases(starter_path() if path is None else path)
