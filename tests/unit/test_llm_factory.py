"""Which planner the settings give, what is refused, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.llm import factory, make_planner
from orchestrator.llm.model_chain import ModelChain
from orchestrator.llm.rules import RulesPlanner
from orchestrator.settings import Settings, read_settings


def settings(**values: str) -> Settings:
    return read_settings({"DATABASE_URL": "postgresql://u:secret-pw@h/d", **values}, None)


def test_rules_need_no_key() -> None:
    assert isinstance(make_planner(settings(ORCHESTRATOR_MODEL="rules:")), RulesPlanner)


def test_a_lost_key_is_an_error_and_never_another_planner() -> None:
    with pytest.raises(ConfigurationError, match="openai:gpt-5-mini needs OPENAI_API_KEY") as raised:
        make_planner(settings())
    assert "OPENAI_API_KEY_FILE" in str(raised.value.hint)


def test_a_server_of_ones_own_needs_no_key() -> None:
    assert isinstance(make_planner(settings(OPENAI_BASE_URL="http://127.0.0.1:1/v1")), ModelChain)


def test_a_missing_provider_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(factory._MODULES, "anthropic", "langchain_not_there")
    with pytest.raises(ConfigurationError, match="needs the package langchain-not-there") as raised:
        make_planner(settings(ORCHESTRATOR_MODEL="anthropic:claude"))
    assert raised.value.hint == "pip install langchain-not-there"


@pytest.mark.parametrize(
    ("model", "said"),
    [("nobody:model", "nobody"), ("perplexity:sonar", "langchain-perplexity")],
)
def test_a_provider_that_cannot_be_built_is_told_when_it_is_prepared(model: str, said: str) -> None:
    planner = make_planner(settings(ORCHESTRATOR_MODEL=model))
    assert isinstance(planner, ModelChain)
    with pytest.raises(ConfigurationError, match=said):
        planner.prepare()


def test_importing_and_making_a_planner_does_not_import_langchain() -> None:
    program = (
        "import sys; from orchestrator.llm import make_planner; from orchestrator.settings import read_settings;"
        "make_planner(read_settings({'DATABASE_URL': 'postgresql://h/d', 'OPENAI_API_KEY': 'sk-12345'}, None));"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'langchain', 'langchain_core', 'openai', 'httpx2'};"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
