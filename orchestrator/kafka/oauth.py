"""Tokens for SASL OAUTHBEARER: a fixed one, one from a file that others renew, or one that we ask for ourselves.

kafka-python asks for the token at each login, on its network thread.
"""

from __future__ import annotations

import logging
import threading
import time
from urllib.parse import urlsplit

import requests
from kafka.net.sasl.oauth import AbstractTokenProvider

from orchestrator.errors import ConfigurationError, KafkaUnavailable
from orchestrator.logs import mask
from orchestrator.settings import Settings, environment_value

log = logging.getLogger(__name__)

_EARLY = 30.0
"""Seconds before its end at which a token is no longer used; for short-lived ones half their life at most."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def token_provider(settings: Settings) -> AbstractTokenProvider:
    """The provider that the settings ask for.

    Raises:
        ConfigurationError: the token endpoint is neither HTTPS nor on this machine.
    """
    if settings.kafka_oauth_token is not None:
        return GivenToken(settings.kafka_oauth_token.get_secret_value())
    return ClientCredentials(settings)


class GivenToken(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python ships no types
    """``KAFKA_OAUTH_TOKEN``, or the content of ``KAFKA_OAUTH_TOKEN_FILE`` as it is at each login."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        """The token as it is now; the last one known where the file is away for a moment."""
        try:
            now = environment_value("KAFKA_OAUTH_TOKEN")
        except ConfigurationError as error:
            log.warning("kafka.token_file_unreadable", extra={"why": str(error)})
            now = None
        if now is not None and now != self._token:
            mask.add(now)
            self._token = now
        return self._token


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python ships no types
    """Tokens of the client-credentials grant (RFC 6749 section 4.4), kept until shortly before they end."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.kafka_oauth_token_url or ""
        address = urlsplit(self._url)
        if address.scheme != "https" and not (address.scheme == "http" and address.hostname in _LOOPBACK):
            raise ConfigurationError(
                f"KAFKA_OAUTH_TOKEN_URL must begin with https://, this one begins with {address.scheme or 'nothing'}://",
                hint="The client's secret must not travel unencrypted; http:// is taken for this machine only.",
            )
        secret = settings.kafka_oauth_client_secret
        self._login = (settings.kafka_oauth_client_id or "", secret.get_secret_value() if secret else "")
        self._form = {"grant_type": "client_credentials"}
        if settings.kafka_oauth_scope:
            self._form["scope"] = settings.kafka_oauth_scope
        self._lock = threading.Lock()
        self._token = ""
        self._until = 0.0

    def token(self) -> str:
        """A token that is good for now.

        Raises:
            KafkaUnavailable: the endpoint gives none; the message says what it answered.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                self._token, lifetime = self._ask()
                self._until = time.monotonic() + lifetime - min(_EARLY, lifetime / 2)
            return self._token

    def _ask(self) -> tuple[str, float]:
        hint = "Check KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_CLIENT_SECRET and KAFKA_OAUTH_SCOPE."
        try:
            answer = requests.post(self._url, data=self._form, auth=self._login, timeout=(5, 10), allow_redirects=False)
        except requests.RequestException as error:
            raise KafkaUnavailable(f"no token for Kafka: {mask(str(error))}", hint=hint) from error
        if answer.status_code != requests.codes.ok:
            raise KafkaUnavailable(
                f"no token for Kafka: {self._url} answered {answer.status_code}: {mask(answer.text[:300])}", hint=hint
            )
        try:
            body = answer.json()
            token, lifetime = str(body["access_token"]), float(body.get("expires_in", 300))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KafkaUnavailable(
                f"no token for Kafka: {self._url} did not answer as RFC 6749 says", hint=hint
            ) from error
        mask.add(token)
        return token, lifetime
