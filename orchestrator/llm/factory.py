"""From the settings to a planner. A model that lacks its key or its package is an error, never another planner."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from orchestrator.errors import ConfigurationError
from orchestrator.flow.ports import Planner
from orchestrator.llm.hybrid import HybridPlanner
from orchestrator.llm.model_chain import Candidate, ModelChain
from orchestrator.llm.planner import LangChainPlanner
from orchestrator.llm.prices import PriceTable, load_prices
from orchestrator.llm.prompts import Instructions
from orchestrator.llm.rules import RulesPlanner
from orchestrator.logs import mask
from orchestrator.settings import Settings

_MODULES = {
    "anthropic": "langchain_anthropic",
    "azure_ai": "langchain_azure_ai",
    "azure_openai": "langchain_openai",
    "bedrock": "langchain_aws",
    "bedrock_converse": "langchain_aws",
    "cohere": "langchain_cohere",
    "deepseek": "langchain_deepseek",
    "fireworks": "langchain_fireworks",
    "google_genai": "langchain_google_genai",
    "google_vertexai": "langchain_google_vertexai",
    "groq": "langchain_groq",
    "mistralai": "langchain_mistralai",
    "ollama": "langchain_ollama",
    "openai": "langchain_openai",
    "openrouter": "langchain_openrouter",
    "together": "langchain_together",
    "xai": "langchain_xai",
}
"""Packages of the providers that can be told missing without importing LangChain; it knows more of them itself."""


Limiting = Callable[[str, Planner], Planner]
"""Given a model's name, puts the limits for it around the planner that asks it."""


def make_planner(settings: Settings, limited: Limiting = lambda _, planner: planner) -> Planner:
    """The planner of the settings; one is shared by all threads of a process.

    Args:
        settings: which models, and how they are asked.
        limited: what bounds the questions to each model.

    Raises:
        ConfigurationError: the key, the package or (where money is bounded) the price of a model is missing.
    """
    names = settings.models
    if settings.plans_by_rules:
        return RulesPlanner()
    mask.add(*settings.secrets())
    prices = load_prices(settings.prices_file)
    candidates = [_limited(_candidate(name, settings, prices), limited) for name in names]
    cheap = None if settings.model_cheap is None else _candidate(settings.model_cheap, settings, prices)
    chain = ModelChain(candidates, cheap and _limited(cheap, limited))
    return HybridPlanner(chain) if settings.planner == "hybrid" else chain


def make_trial_planner(settings: Settings, model: str, instructions: Instructions | None = None) -> Planner:
    """One model on trial, outside any task: no fallbacks, no limits, no budget.

    Args:
        settings: how models are asked.
        model: ``provider:model``, or ``rules:``.
        instructions: other instructions than those of the prompt that a question names.

    Raises:
        ConfigurationError: the model's key or package is missing, its name is no ``provider:model``, or rules are to be
            asked with a prompt, which they do not read.
    """
    if model == "rules:" and instructions is not None:
        raise ConfigurationError("`rules:` reads no prompt", hint="Leave --prompt out, or name a model.")
    if model != "rules:" and not all(model.partition(":")):
        hint = "Write provider:model, such as openai:gpt-5-mini, or rules:."
        raise ConfigurationError(f"{model!r} is no model", hint=hint)
    mask.add(*settings.secrets())
    prices = load_prices(settings.prices_file)
    return _candidate(model, settings.model_copy(update={"max_money": None}), prices, instructions).planner


def _limited(candidate: Candidate, limited: Limiting) -> Candidate:
    """The candidate within its limits; rules cost nobody anything and have none."""
    if candidate.provider == "rules":
        return candidate
    return Candidate(candidate.name, limited(candidate.name, candidate.planner))


def _candidate(
    name: str, settings: Settings, prices: PriceTable, instructions: Instructions | None = None
) -> Candidate:
    if name == "rules:":
        return Candidate(name, RulesPlanner())
    provider = name.partition(":")[0]
    module = _MODULES.get(provider)
    if module is not None and find_spec(module) is None:
        package = module.replace("_", "-")
        raise ConfigurationError(
            f"ORCHESTRATOR_MODEL={name} needs the package {package}, which is not installed",
            hint=f"pip install {package}",
        )
    api_key = settings.openai_api_key.get_secret_value() if settings.openai_api_key is not None else None
    if provider == "openai" and api_key is None and settings.openai_base_url is None:
        raise ConfigurationError(
            f"ORCHESTRATOR_MODEL={name} needs OPENAI_API_KEY, which is not set",
            hint="Set OPENAI_API_KEY or OPENAI_API_KEY_FILE; or OPENAI_BASE_URL for a server of your own that needs no "
            "key; or ORCHESTRATOR_MODEL=rules: to plan without a model.",
        )
    if settings.max_money is not None and prices.of(name) is None:
        raise ConfigurationError(
            f"ORCHESTRATOR_MAX_TASK_MONEY bounds what a task may cost, and the price of {name} is not known",
            hint="Put it into a file and name that in ORCHESTRATOR_PRICES (docs/budgets.md).",
        )
    planner = LangChainPlanner(
        name,
        prices=prices,
        timeout=settings.model_timeout,
        max_tokens=settings.model_max_tokens,
        api_key=api_key if provider == "openai" else None,
        base_url=settings.openai_base_url if provider == "openai" else None,
        instructions=instructions,
        verbose=settings.verbose,
    )
    return Candidate(name, planner)
