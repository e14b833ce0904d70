"""A question as a model is put it: the messages and tools of one decision, for people who want to read them. Pure."""

from __future__ import annotations

from typing import Any

from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.prompt import build_prompt
from orchestrator.llm.tools import Toolbox


def question_of(request: PlanRequest) -> dict[str, Any]:
    """``prompt_version``, ``system``, ``user`` and ``tools`` (in OpenAI's form) for this request."""
    prompt = build_prompt(request)
    return {
        "prompt_version": prompt.version,
        "system": prompt.system,
        "user": prompt.user,
        "tools": Toolbox.of(request.agents).definitions(),
    }
