"""Every setting, validated at start: the only module that reads the environment (and ``.env``).

Each setting has a name in the environment (its alias below, upper case). ``<NAME>_FILE`` names a file whose content,
less a trailing newline, is the value: for secrets mounted by Docker or Kubernetes. Precedence: environment, then
``…_FILE``, then ``.env``, then the default. Secrets are `SecretStr`: they show as ``**********`` everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, SecretStr, ValidationError, model_validator

from orchestrator.errors import ConfigurationError
from orchestrator.setting_kinds import CommaList, Seconds
from orchestrator.setting_kinds import setting as _setting
from orchestrator.settings_checks import check_together, secret_texts
from orchestrator.settings_retention import RetentionSettings
from orchestrator.settings_source import problem_text, read_values
from orchestrator.settings_turns import TurnSettings


class Settings(TurnSettings, RetentionSettings):
    """All settings of all processes. Fields are grouped as they are documented in docs/settings.md."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=False, hide_input_in_errors=True)

    # -- servers
    database_url: SecretStr = _setting(
        "DATABASE_URL",
        doc="PostgreSQL: `postgresql://user:password@host:5432/name?sslmode=verify-full&sslrootcert=…`.",
    )
    redis_url: SecretStr = _setting(
        "REDIS_URL",
        SecretStr("redis://127.0.0.1:6379/0"),
        doc="Celery's broker: `redis://[user:password@]host:6379/0`, `rediss://…` for TLS, or "
        "`sentinel://host:26379;sentinel://host2:26379` for Sentinel. Redis Cluster is refused: Celery cannot use it.",
    )
    redis_sentinel_master: str = _setting(
        "REDIS_SENTINEL_MASTER", "mymaster", doc="Name of the master that Sentinel watches."
    )
    redis_sentinel_password: SecretStr | None = _setting(
        "REDIS_SENTINEL_PASSWORD", None, doc="Password of the Sentinels themselves, where they have one."
    )
    redis_ssl_ca_file: Path | None = _setting(
        "REDIS_SSL_CA", None, doc="CA certificates (PEM) for `rediss://`; default: the system's."
    )
    redis_ssl_cert: Path | None = _setting("REDIS_SSL_CERT", None, doc="Client certificate (PEM) for `rediss://`.")
    redis_ssl_key: Path | None = _setting("REDIS_SSL_KEY", None, doc="Key of the client certificate.")
    redis_key_prefix: str = _setting(
        "REDIS_KEY_PREFIX", "orchestrator:", doc="Prefix of every key in Redis (`global_keyprefix`)."
    )
    kafka_bootstrap_servers: CommaList = _setting(
        "KAFKA_BOOTSTRAP_SERVERS", ("127.0.0.1:9092",), doc="Kafka brokers, `host:port`, separated by commas."
    )

    # -- Kafka
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", doc="How to talk to the brokers."
    )
    kafka_ssl_ca: Path | None = _setting("KAFKA_SSL_CA", None, doc="CA certificates (PEM) of the brokers.")
    kafka_ssl_cert: Path | None = _setting("KAFKA_SSL_CERT", None, doc="Client certificate (PEM).")
    kafka_ssl_key: Path | None = _setting("KAFKA_SSL_KEY", None, doc="Key of the client certificate.")
    kafka_ssl_check_hostname: bool = _setting(
        "KAFKA_SSL_CHECK_HOSTNAME", True, doc="Whether the broker's certificate must name its host."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = _setting(
        "KAFKA_SASL_MECHANISM", None, doc="With `SASL_…`: how to log in."
    )
    kafka_sasl_username: str | None = _setting("KAFKA_SASL_USERNAME", None, doc="PLAIN and SCRAM: user.")
    kafka_sasl_password: SecretStr | None = _setting("KAFKA_SASL_PASSWORD", None, doc="PLAIN and SCRAM: password.")
    kafka_oauth_token: SecretStr | None = _setting(
        "KAFKA_OAUTH_TOKEN", None, doc="OAUTHBEARER: a fixed token; with `KAFKA_OAUTH_TOKEN_FILE` read anew each login."
    )
    kafka_oauth_token_url: str | None = _setting(
        "KAFKA_OAUTH_TOKEN_URL", None, doc="OAUTHBEARER: token endpoint for the client-credentials grant."
    )
    kafka_oauth_client_id: str | None = _setting("KAFKA_OAUTH_CLIENT_ID", None, doc="OAUTHBEARER: client id.")
    kafka_oauth_client_secret: SecretStr | None = _setting(
        "KAFKA_OAUTH_CLIENT_SECRET", None, doc="OAUTHBEARER: client secret."
    )
    kafka_oauth_scope: str | None = _setting("KAFKA_OAUTH_SCOPE", None, doc="OAUTHBEARER: scope to ask for.")
    kafka_topic_prefix: str = _setting("KAFKA_TOPIC_PREFIX", "", doc="Put before each of the four topic names.")
    kafka_topic_tasks: str = _setting("KAFKA_TOPIC_TASKS", "tasks", doc="Topic of task messages.")
    kafka_topic_events: str = _setting("KAFKA_TOPIC_EVENTS", "events", doc="Topic of event messages.")
    kafka_topic_updates: str = _setting("KAFKA_TOPIC_UPDATES", "task-updates", doc="Topic that updates go to.")
    kafka_topic_dead_letters: str = _setting(
        "KAFKA_TOPIC_DEAD_LETTERS", "dead-letters", doc="Topic that dead letters go to."
    )
    kafka_group_id: str = _setting("KAFKA_GROUP_ID", "orchestrator-bridge", doc="Consumer group of the bridges.")
    kafka_session_timeout: Seconds = _setting(
        "KAFKA_SESSION_TIMEOUT", 10.0, doc="Seconds until the group gives up on a silent bridge."
    )
    kafka_create_topics: bool = _setting(
        "KAFKA_CREATE_TOPICS", True, doc="Create missing topics at start, as the broker's defaults have them."
    )

    # -- planner
    model: str = _setting(
        "ORCHESTRATOR_MODEL",
        "openai:gpt-5-mini",
        doc="Who decides: `provider:model` as LangChain's `init_chat_model` takes it, or `rules:` (no LLM: backward "
        "chaining over what agents provide and require). Several, separated by commas, are asked one after another.",
        min_length=1,
    )
    model_fallbacks: CommaList = _setting(
        "ORCHESTRATOR_MODEL_FALLBACKS",
        (),
        doc="Models asked in this order where `ORCHESTRATOR_MODEL` is away, refuses or is too small; the last may be "
        "`rules:`.",
    )
    model_cheap: str | None = _setting(
        "ORCHESTRATOR_MODEL_CHEAP", None, doc="The model that goes on once a task's tokens or money run low."
    )
    planner: Literal["llm", "rules", "hybrid"] = _setting(
        "ORCHESTRATOR_PLANNER",
        "llm",
        doc="`llm`: the models decide. `hybrid`: rules decide what leaves no choice, the models all else. `rules`: as "
        "`ORCHESTRATOR_MODEL=rules:`.",
    )
    openai_api_key: SecretStr | None = _setting("OPENAI_API_KEY", None, doc="Key for `openai:` models.")
    openai_base_url: str | None = _setting("OPENAI_BASE_URL", None, doc="Any OpenAI-compatible server.")
    model_timeout: Seconds = _setting("ORCHESTRATOR_MODEL_TIMEOUT", 60.0, doc="Seconds one answer may take.")
    model_max_tokens: int = _setting(
        "ORCHESTRATOR_MODEL_MAX_TOKENS", 4096, doc="Tokens one answer may have.", ge=16, le=1_000_000
    )
    model_attempts: int = _setting(
        "ORCHESTRATOR_MODEL_ATTEMPTS",
        6,
        doc="Tries (with back-off) before a step fails as `planner_unavailable`.",
        ge=1,
    )
    bad_answers: int = _setting(
        "ORCHESTRATOR_BAD_ANSWERS", 3, doc="Unusable answers in one step before it fails as `bad_decision`.", ge=1
    )
    prompt_agents: int = _setting(
        "ORCHESTRATOR_PROMPT_AGENTS",
        60,
        doc="Agents that one question offers to a model; of a larger registry those that lead to missing fields first.",
        ge=1,
        le=120,
    )
    prices_file: Path | None = _setting(
        "ORCHESTRATOR_PRICES", None, doc="Your own prices of models' tokens (YAML), before the shipped ones."
    )
    verbose: bool = _setting(
        "ORCHESTRATOR_VERBOSE", False, doc="Log prompts, answers and reasons, with secrets masked."
    )

    # -- agents and events
    agents_file: Path = _setting("ORCHESTRATOR_AGENTS", Path("agents.yaml"), doc="The registry of agents.")
    agents_ca: Path | None = _setting(
        "ORCHESTRATOR_AGENTS_CA", None, doc="CA certificates (PEM) for agents over https; default: the public ones."
    )
    events_file: Path | None = _setting(
        "ORCHESTRATOR_EVENTS", None, doc="Event types; without it every event merges as it is."
    )

    # -- tasks
    max_steps: int = _setting(
        "ORCHESTRATOR_MAX_STEPS", 50, doc="Steps a task may take before it fails as `budget_steps`.", ge=1, le=100_000
    )
    max_delegations: int = _setting(
        "ORCHESTRATOR_MAX_DELEGATIONS",
        1_000,
        doc="Calls of agents a task may make before it fails as `budget_delegations`.",
        ge=1,
        le=1_000_000,
    )
    max_tokens: int = _setting(
        "ORCHESTRATOR_MAX_TASK_TOKENS",
        2_000_000,
        doc="Tokens of models, in and out, that a task may use before it fails as `budget_tokens`.",
        ge=1_000,
    )
    max_money: Decimal | None = _setting(
        "ORCHESTRATOR_MAX_TASK_MONEY",
        None,
        doc="What the models may cost for one task, in the currency of the price table (the shipped one: US dollars), "
        "before it fails as `budget_money`; without it money is counted and not bounded.",
        gt=0,
    )
    max_seconds: Seconds | None = _setting(
        "ORCHESTRATOR_MAX_TASK_SECONDS",
        None,
        doc="Seconds after its arrival at which a task fails as `budget_time`; without it, it may wait for ever.",
    )
    budget_warn: float = _setting(
        "ORCHESTRATOR_BUDGET_WARN",
        0.8,
        doc="Share of a bound from which on a task warns, and `ORCHESTRATOR_MODEL_CHEAP` decides.",
        gt=0,
        le=1,
    )
    idle_steps: int = _setting(
        "ORCHESTRATOR_IDLE_STEPS", 15, doc="Steps without a new field that fail a task as `no_progress`; 0: any.", ge=0
    )
    repeats: int = _setting(
        "ORCHESTRATOR_REPEATS",
        3,
        doc="The same decision so often in a row fails a task as `no_progress`; 0: never.",
        ge=0,
    )
    max_message_bytes: int = _setting(
        "ORCHESTRATOR_MAX_MESSAGE_BYTES", 1_000_000, doc="Larger records are dead letters.", ge=1_000
    )
    max_message_depth: int = _setting(
        "ORCHESTRATOR_MAX_MESSAGE_DEPTH", 32, doc="Deeper nested records are dead letters.", ge=3, le=200
    )
    max_context_bytes: int = _setting(
        "ORCHESTRATOR_MAX_CONTEXT_BYTES", 4_000_000, doc="A task whose context outgrows this fails.", ge=10_000
    )
    max_fan_out: int = _setting(
        "ORCHESTRATOR_MAX_FAN_OUT",
        100,
        doc="Agents that one decision may call; several run side by side, each as a Celery task.",
        ge=1,
        le=1_000,
    )
    fan_out_at_once: int = _setting(
        "ORCHESTRATOR_FAN_OUT_AT_ONCE",
        20,
        doc="Delegations of one step under way at once; the others are sent as these settle.",
        ge=1,
        le=1_000,
    )
    partial_failure: Literal["all", "any", "collect"] = _setting(
        "ORCHESTRATOR_PARTIAL_FAILURE",
        "all",
        doc="What a failed delegation means for its step, unless the task's message says: `all` must succeed, of "
        "`any` one suffices, `collect` tells the planner.",
    )
    event_wait: Seconds = _setting(
        "ORCHESTRATOR_EVENT_WAIT", 24 * 3600.0, doc="Seconds an event waits for its task before it is a dead letter."
    )

    # -- leases and recovery
    lease: Seconds = _setting("ORCHESTRATOR_LEASE", 9.0, doc="Seconds a step's lease lasts unless renewed.")
    stall: Seconds = _setting(
        "ORCHESTRATOR_STALL", 10.0, doc="Seconds after which a task that nobody took up is dispatched again."
    )
    sweep_interval: Seconds = _setting("ORCHESTRATOR_SWEEP_INTERVAL", 2.0, doc="Seconds between two sweeps.")
    max_lost_leases: int = _setting(
        "ORCHESTRATOR_MAX_LOST_LEASES", 10, doc="Workers that may die in one step before it fails as `poison`.", ge=1
    )
    dispatch_window: int = _setting(
        "ORCHESTRATOR_DISPATCH_WINDOW",
        2_000,
        doc="Step messages that may wait in the broker before and beside one as urgent; more tasks stay in PostgreSQL "
        "until there is room.",
        ge=1,
    )

    # -- processes
    concurrency: int = _setting(
        "ORCHESTRATOR_CONCURRENCY", 50, doc="Steps a worker runs at once (threads).", ge=1, le=10_000
    )
    processes: int = _setting(
        "ORCHESTRATOR_PROCESSES",
        1,
        doc="Processes of one worker command, each with `ORCHESTRATOR_CONCURRENCY` threads: one for each processor.",
        ge=1,
        le=256,
    )
    stop_period: Seconds = _setting(
        "ORCHESTRATOR_STOP_PERIOD",
        8.0,
        doc="Seconds after SIGTERM by which a worker ends, handing back what still runs.",
    )
    database_pool: int = _setting(
        "ORCHESTRATOR_DATABASE_POOL", 20, doc="PostgreSQL connections a process may open.", ge=1, le=1_000
    )
    statement_timeout: Seconds = _setting(
        "ORCHESTRATOR_STATEMENT_TIMEOUT", 15.0, doc="Seconds after which PostgreSQL ends a statement of ours."
    )
    replicas_complete: bool = _setting(
        "ORCHESTRATOR_REPLICAS_COMPLETE",
        False,
        doc="Whether a replica that takes over has all that was confirmed (`synchronous_standby_names`, "
        "`synchronous_commit`): then no task is doubted for it.",
    )
    bridge_batch: int = _setting("BRIDGE_BATCH", 1_000, doc="Records taken in with one commit.", ge=1, le=10_000)
    bridge_backlog: int = _setting(
        "BRIDGE_BACKLOG", 100_000, doc="Unfinished dispatches in PostgreSQL above which the bridge pauses.", ge=1
    )
    bridge_bad_in_a_row: int = _setting(
        "BRIDGE_BAD_IN_A_ROW", 1_000, doc="Bad records in a row that stop the bridge loudly.", ge=1
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting(
        "ORCHESTRATOR_LOG_LEVEL", "INFO", doc="Least level that is logged."
    )
    log_format: Literal["text", "json"] = _setting(
        "ORCHESTRATOR_LOG_FORMAT", "text", doc="Lines for people, or one JSON object a line."
    )
    faults: str | None = _setting("ORCHESTRATOR_FAULTS", None, doc="For tests only: where a process dies or pauses.")
    faults_folder: Path | None = _setting(
        "ORCHESTRATOR_FAULTS_FOLDER", None, doc="For tests only: where fired faults leave their marks."
    )
    flower_port: int = _setting("FLOWER_PORT", 5555, doc="Where Flower listens.", ge=1, le=65_535)
    flower_address: str = _setting("FLOWER_ADDRESS", "127.0.0.1", doc="Address that Flower listens on.")
    flower_basic_auth: SecretStr | None = _setting(
        "FLOWER_BASIC_AUTH", None, doc="`user:password` that Flower asks for."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        check_together(self)
        return self

    @property
    def plans_by_rules(self) -> bool:
        """Whether no model is asked at all."""
        return self.planner == "rules" or self.models == ("rules:",)

    @property
    def models(self) -> tuple[str, ...]:
        """All models in the order in which they are asked."""
        named = [name.strip() for name in self.model.split(",")]
        return tuple(dict.fromkeys([*named, *self.model_fallbacks]))

    def topic(self, kind: Literal["tasks", "events", "updates", "dead_letters"]) -> str:
        """A topic's full name, prefix included."""
        return f"{self.kafka_topic_prefix}{getattr(self, f'kafka_topic_{kind}')}"

    @property
    def lease_for(self) -> timedelta:
        """`lease` as a timedelta."""
        return timedelta(seconds=self.lease)

    @property
    def stall_for(self) -> timedelta:
        """`stall` as a timedelta."""
        return timedelta(seconds=self.stall)

    def secrets(self) -> tuple[str, ...]:
        """Every secret value in use, for masking in logs; passwords inside URLs included."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return secret_texts(value.get_secret_value() for value in values if isinstance(value, SecretStr))


def read_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """Read and validate all settings.

    Raises:
        ConfigurationError: naming each setting that is missing or wrong; no secret's value is shown.
    """
    names = {str(info.alias) for info in Settings.model_fields.values()}
    values = read_values(names, os.environ if environ is None else environ, dotenv)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(problem_text(item) for item in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(
            f"settings are wrong: {problems}",
            hint="Set them in the environment or in .env; docs/settings.md has each with its default.",
        ) from None


def environment_value(name: str) -> str | None:
    """One value that is no setting of ours: an agent's secret or address, named in agents.yaml.

    Looked up like a setting: environment, ``<name>_FILE``, ``.env``. None where it is not set.

    Raises:
        ConfigurationError: ``<name>_FILE`` names a file that cannot be read.
    """
    return read_values([name], os.environ, Path(".env")).get(name)


def environment_with(**more: str) -> dict[str, str]:
    """This process's environment and more, for a process that it starts."""
    return {**os.environ, **more}


def model_settings() -> Settings:
    """The settings of what asks models and touches no server: PostgreSQL's address may be missing.

    Raises:
        ConfigurationError: one of the others is wrong.
    """
    if environment_value("DATABASE_URL") is not None:
        return get_settings()
    return read_settings({**os.environ, "DATABASE_URL": "postgresql://none.invalid/none"})


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings()
