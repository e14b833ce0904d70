"""Settings: where a value comes from, that a wrong one is named, and that no secret is ever shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.settings import Settings, environment_value, get_settings, read_settings

SECRET = "s3cret-value"
GOOD = {"DATABASE_URL": "postgresql://app:s3cret-value@db.example:5432/app"}


def read(**environ: str) -> Settings:
    return read_settings({**GOOD, **environ}, dotenv=None)


def complaint(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        read(**environ)
    assert raised.value.hint
    assert SECRET not in str(raised.value)
    return str(raised.value)


# -- where values come from


def test_only_the_database_is_required() -> None:
    settings = read()
    assert settings.database_url.get_secret_value() == GOOD["DATABASE_URL"]
    assert settings.kafka_bootstrap_servers == ("127.0.0.1:9092",)
    assert settings.model_fields_set == {"database_url"}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        read_settings({}, dotenv=None)


def test_an_empty_value_counts_as_not_set() -> None:
    assert read(ORCHESTRATOR_MAX_STEPS="", KAFKA_SASL_MECHANISM="").max_steps == 50


def test_a_file_gives_the_value_without_its_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    settings = read(OPENAI_API_KEY_FILE=str(tmp_path / "key"))
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == SECRET


def test_a_file_can_hold_any_setting(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("7\n")
    assert read(ORCHESTRATOR_MAX_STEPS_FILE=str(tmp_path / "steps")).max_steps == 7


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = complaint(OPENAI_API_KEY_FILE=str(tmp_path / "nothing"))
    assert "OPENAI_API_KEY_FILE" in message
    assert str(tmp_path / "nothing") in message


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    assert "OPENAI_API_KEY_FILE" in complaint(OPENAI_API_KEY_FILE=str(tmp_path / "key"))


def test_precedence_is_environment_then_file_then_dotenv(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("2")
    dotenv = tmp_path / ".env"
    dotenv.write_text("ORCHESTRATOR_MAX_STEPS=3\nORCHESTRATOR_BAD_ANSWERS=4\n")
    file = {"ORCHESTRATOR_MAX_STEPS_FILE": str(tmp_path / "steps")}
    assert read_settings({**GOOD, **file, "ORCHESTRATOR_MAX_STEPS": "1"}, dotenv).max_steps == 1
    assert read_settings({**GOOD, **file}, dotenv).max_steps == 2
    assert read_settings(GOOD, dotenv).max_steps == 3
    assert read_settings(GOOD, dotenv).bad_answers == 4


def test_dotenv_may_name_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(GOOD["DATABASE_URL"])
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"DATABASE_URL_FILE={tmp_path / 'url'}\n")
    assert read_settings({}, dotenv).database_url.get_secret_value() == GOOD["DATABASE_URL"]


def test_variables_of_others_do_not_matter() -> None:
    assert read(PATH="/bin", KAFKA_HOME="/opt/kafka").max_steps == 50


def test_the_process_reads_its_settings_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", GOOD["DATABASE_URL"])
    get_settings.cache_clear()
    try:
        assert get_settings() is get_settings()
    finally:
        get_settings.cache_clear()


def test_what_agents_yaml_names_is_looked_up_the_same_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / ".env").write_text("CRM_TOKEN=from-dotenv\n")
    assert environment_value("CRM_TOKEN") == "from-dotenv"
    monkeypatch.setenv("CRM_TOKEN_FILE", str(tmp_path / "token"))
    assert environment_value("CRM_TOKEN") == "from-file"
    monkeypatch.setenv("CRM_TOKEN", "from-environment")
    assert environment_value("CRM_TOKEN") == "from-environment"
    assert environment_value("SOME_OTHER_TOKEN") is None


# -- secrets

SECRETS = [
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_SENTINEL_PASSWORD",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_OAUTH_TOKEN",
    "KAFKA_OAUTH_CLIENT_SECRET",
    "OPENAI_API_KEY",
    "FLOWER_BASIC_AUTH",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_shown_by_anything(name: str) -> None:
    urls = {"DATABASE_URL": GOOD["DATABASE_URL"], "REDIS_URL": f"redis://:{SECRET}@redis.example:6379/0"}
    settings = read_settings({**GOOD, name: urls.get(name, SECRET)}, dotenv=None)
    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())]
    assert not [text for text in shown if SECRET in text]
    assert SECRET in settings.secrets()


def test_every_setting_that_sounds_secret_is_one() -> None:
    words = ("PASSWORD", "SECRET", "API_KEY", "TOKEN", "AUTH")
    harmless = {
        "KAFKA_OAUTH_TOKEN_URL",
        "KAFKA_OAUTH_CLIENT_ID",
        "KAFKA_OAUTH_SCOPE",
        "ORCHESTRATOR_MODEL_MAX_TOKENS",
        "ORCHESTRATOR_MAX_TASK_TOKENS",
    }
    sounding = {str(info.alias) for info in Settings.model_fields.values() if any(w in str(info.alias) for w in words)}
    assert sounding - harmless == set(SECRETS) - {"DATABASE_URL", "REDIS_URL"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"DATABASE_URL": f"mysql://app:{SECRET}@db/app"},
        {"REDIS_URL": f"http://:{SECRET}@redis"},
        {"REDIS_URL": f"redis+cluster://:{SECRET}@redis"},
        {"OPENAI_API_KEY": SECRET, "ORCHESTRATOR_MAX_STEPS": "many"},
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD": SECRET},
    ],
    ids=str,
)
def test_no_error_shows_a_secret(wrong: dict[str, str]) -> None:
    complaint(**wrong)


def test_passwords_in_urls_are_known_for_masking_as_written_and_decoded() -> None:
    settings = read(DATABASE_URL="postgresql://app:p%40ss%2Fword@db/app")
    assert {"p%40ss%2Fword", "p@ss/word"} <= set(settings.secrets())


# -- wrong values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://db/app"),
        ("DATABASE_URL", "db.example"),
        ("REDIS_URL", "http://redis.example"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka.example"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka-1.example:9092,kafka-2.example"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka://kafka.example:9092"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("KAFKA_SSL_CHECK_HOSTNAME", "perhaps"),
        ("KAFKA_SESSION_TIMEOUT", "0"),
        ("ORCHESTRATOR_MODEL", "gpt-5-mini"),
        ("ORCHESTRATOR_MODEL", "rules:fast"),
        ("ORCHESTRATOR_MODEL_TIMEOUT", "-1"),
        ("ORCHESTRATOR_MODEL_MAX_TOKENS", "2"),
        ("ORCHESTRATOR_MODEL_ATTEMPTS", "0"),
        ("ORCHESTRATOR_BAD_ANSWERS", "0"),
        ("ORCHESTRATOR_VERBOSE", "very"),
        ("ORCHESTRATOR_MAX_STEPS", "many"),
        ("ORCHESTRATOR_MAX_STEPS", "0"),
        ("ORCHESTRATOR_MAX_MESSAGE_BYTES", "10"),
        ("ORCHESTRATOR_MAX_MESSAGE_DEPTH", "1000"),
        ("ORCHESTRATOR_MAX_CONTEXT_BYTES", "1"),
        ("ORCHESTRATOR_EVENT_WAIT", "tomorrow"),
        ("ORCHESTRATOR_LEASE", "0"),
        ("ORCHESTRATOR_STALL", """ "10" """),
        ("ORCHESTRATOR_SWEEP_INTERVAL", "0"),
        ("ORCHESTRATOR_MAX_LOST_LEASES", "0"),
        ("ORCHESTRATOR_DISPATCH_WINDOW", "0"),
        ("ORCHESTRATOR_CONCURRENCY", "1000000"),
        ("ORCHESTRATOR_DATABASE_POOL", "0"),
        ("ORCHESTRATOR_STATEMENT_TIMEOUT", "0"),
        ("BRIDGE_BATCH", "0"),
        ("BRIDGE_BACKLOG", "-5"),
        ("BRIDGE_BAD_IN_A_ROW", "0"),
        ("ORCHESTRATOR_LOG_LEVEL", "LOUD"),
        ("ORCHESTRATOR_LOG_FORMAT", "xml"),
        ("FLOWER_PORT", "70000"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    assert name in complaint(**{name: value})


def test_several_wrong_values_are_all_named_at_once() -> None:
    message = complaint(ORCHESTRATOR_MAX_STEPS="many", FLOWER_PORT="0", ORCHESTRATOR_LOG_FORMAT="xml")
    assert all(name in message for name in ("ORCHESTRATOR_MAX_STEPS", "FLOWER_PORT", "ORCHESTRATOR_LOG_FORMAT"))


# -- Redis


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis.example:6379/0",
        "redis://user:password@redis.example:6379/0",
        "rediss://:password@redis.example:6380/1",
        "sentinel://:password@one.example:26379;sentinel://two.example:26379",
    ],
)
def test_redis_urls_that_work(url: str) -> None:
    assert read(REDIS_URL=url).redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["redis+cluster://one:6379", "rediss+cluster://one:6379", "redis://one:6379/0?cluster=true"]
)
def test_redis_cluster_is_refused_with_the_reason_and_the_way_out(url: str) -> None:
    message = complaint(REDIS_URL=url)
    assert "REDIS_URL" in message
    assert "Redis Cluster cannot be Celery's broker" in message
    assert "Sentinel" in message


# -- Kafka

LOGIN = {"KAFKA_SASL_USERNAME": "app", "KAFKA_SASL_PASSWORD": SECRET}


def test_several_brokers() -> None:
    servers = read(KAFKA_BOOTSTRAP_SERVERS="one.example:9092, 10.0.0.2:9093,[::1]:9094").kafka_bootstrap_servers
    assert servers == ("one.example:9092", "10.0.0.2:9093", "[::1]:9094")


@pytest.mark.parametrize(
    "given",
    [
        {"KAFKA_SASL_MECHANISM": "PLAIN", **LOGIN},
        {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", **LOGIN},
        {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", **LOGIN},
        {"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_OAUTH_TOKEN": SECRET},
        {
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA_OAUTH_TOKEN_URL": "https://login.example/token",
            "KAFKA_OAUTH_CLIENT_ID": "app",
            "KAFKA_OAUTH_CLIENT_SECRET": SECRET,
        },
    ],
    ids=lambda given: "+".join(given),
)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_with_what_its_mechanism_needs(protocol: str, given: dict[str, str]) -> None:
    assert read(KAFKA_SECURITY_PROTOCOL=protocol, **given).kafka_security_protocol == protocol


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SASL_MECHANISM": "PLAIN"}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": "app"}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_SASL_PASSWORD": SECRET}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SASL_MECHANISM": "OAUTHBEARER"}, "KAFKA_OAUTH_TOKEN"),
        ({"KAFKA_SASL_MECHANISM": "OAUTHBEARER", **LOGIN}, "KAFKA_OAUTH_TOKEN"),
        (
            {"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_OAUTH_TOKEN_URL": "https://login.example/token"},
            "KAFKA_OAUTH_CLIENT_ID",
        ),
    ],
    ids=str,
)
def test_sasl_without_what_its_mechanism_needs(given: dict[str, str], named: str) -> None:
    assert named in complaint(KAFKA_SECURITY_PROTOCOL="SASL_SSL", **given)


def test_topics_have_the_prefix() -> None:
    settings = read(KAFKA_TOPIC_PREFIX="acme.", KAFKA_TOPIC_TASKS="jobs-in")
    assert settings.topic("tasks") == "acme.jobs-in"
    assert settings.topic("events") == "acme.events"
    assert settings.topic("updates") == "acme.task-updates"
    assert settings.topic("dead_letters") == "acme.dead-letters"


# -- the model


@pytest.mark.parametrize(
    "model", ["rules:", "openai:gpt-5-mini", "anthropic:claude-sonnet-4-5", "azure_openai:my-deployment"]
)
def test_models_that_can_be_named(model: str) -> None:
    assert read(ORCHESTRATOR_MODEL=model).model == model


def test_nothing_of_the_settings_can_be_changed() -> None:
    settings: Any = read()
    with pytest.raises(ValueError, match="frozen"):
        settings.max_steps = 1


def test_settings_can_be_written_as_json_for_a_report() -> None:
    assert json.loads(read().model_dump_json())["database_url"] == "**********"
