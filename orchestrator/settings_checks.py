"""What settings must be beside their types: forms of addresses, and what is needed only together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.setting_kinds import check_database_url, check_redis_url

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def check_together(settings: Settings) -> None:
    """Look at settings that have the right types.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    check_database_url(settings.database_url.get_secret_value())
    check_redis_url(settings.redis_url.get_secret_value())
    if settings.kafka_security_protocol.startswith("SASL"):
        check_sasl(settings)
    for server in settings.kafka_bootstrap_servers:
        if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", server):
            raise ValueError(f"KAFKA_BOOTSTRAP_SERVERS: {server!r} is not host:port")
    check_models(settings)


def check_models(settings: Settings) -> None:
    """Whether the models are named as they must be, `rules:` only as the last."""
    cheap = () if settings.model_cheap is None else (settings.model_cheap,)
    for name in (*settings.models, *cheap):
        if not re.fullmatch(r"rules:|(?!rules:)[a-z0-9_]+:.+", name):
            raise ValueError(f"ORCHESTRATOR_MODEL: {name!r} is neither `rules:` nor `provider:model`")
    if "rules:" in settings.models[:-1]:
        raise ValueError("ORCHESTRATOR_MODEL: `rules:` always decides, so no model may stand behind it")
    if cheap == ("rules:",):
        raise ValueError("ORCHESTRATOR_MODEL_CHEAP: name a model; `rules:` may be the last of the fallbacks")


def check_sasl(settings: Settings) -> None:
    """Whether what a SASL mechanism needs is there."""
    if settings.kafka_sasl_mechanism is None:
        raise ValueError("KAFKA_SASL_MECHANISM is needed with KAFKA_SECURITY_PROTOCOL=SASL_…")
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        by_client = settings.kafka_oauth_token_url and settings.kafka_oauth_client_id
        if settings.kafka_oauth_token is None and not by_client:
            raise ValueError(
                "OAUTHBEARER needs KAFKA_OAUTH_TOKEN (or KAFKA_OAUTH_TOKEN_FILE), "
                "or KAFKA_OAUTH_TOKEN_URL with KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET"
            )
    elif settings.kafka_sasl_username is None or settings.kafka_sasl_password is None:
        raise ValueError(f"{settings.kafka_sasl_mechanism} needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")


def secret_texts(values: Iterable[str]) -> tuple[str, ...]:
    """What is to be masked of these secret values, longest first: of URLs their passwords."""
    found: list[str] = []
    for text in values:
        if "://" in text:
            passwords = re.findall(r"//[^/@]*?:([^@/]+)@", text)
            found.extend(form for password in passwords for form in (password, unquote(password)))
        else:
            found.append(text)
    return tuple(sorted({text for text in found if len(text) >= 4}, key=len, reverse=True))
