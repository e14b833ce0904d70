"""Kafka's SASL as a broker speaks it: SaslHandshake, then SaslAuthenticate, for PLAIN, SCRAM and OAUTHBEARER."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct

from tests.support.secured import Lock, exactly

_API_VERSIONS, _HANDSHAKE, _AUTHENTICATE = 18, 17, 36
_FAILED, _UNSUPPORTED = 58, 33

USER, PASSWORD, TOKEN = "orders", "sasl-password", "a.token.of-the-test"


def sasl(mechanism: str) -> Lock:
    """A lock that only this mechanism opens, with `USER` and `PASSWORD`, or `TOKEN`."""

    def lock(client: socket.socket, server: socket.socket) -> socket.socket:
        exchange = _exchange(mechanism)
        while True:
            raw = exactly(client, struct.unpack(">i", exactly(client, 4))[0])
            api, version, correlation = struct.unpack(">hhi", raw[:8])
            body = raw[10 + max(0, struct.unpack(">h", raw[8:10])[0]) :]
            if api == _API_VERSIONS:
                server.sendall(struct.pack(">i", len(raw)) + raw)
                answer = exactly(server, struct.unpack(">i", exactly(server, 4))[0])
                client.sendall(struct.pack(">i", len(answer)) + answer)
            elif api == _HANDSHAKE:
                asked = body[2 : 2 + struct.unpack(">h", body[:2])[0]].decode()
                code = 0 if asked == mechanism else _UNSUPPORTED
                name = mechanism.encode()
                _answer(client, correlation, struct.pack(">hih", code, 1, len(name)) + name)
            elif api == _AUTHENTICATE:
                said = body[4 : 4 + struct.unpack(">i", body[:4])[0]] if version < 2 else _uncompacted(body[1:])
                reply, done = exchange.send(said)
                if reply is None:
                    text = b"wrong credentials"
                    _authenticated(client, version, correlation, _FAILED, text, b"")
                    raise ConnectionError("wrong credentials")
                _authenticated(client, version, correlation, 0, None, reply)
                if done:
                    return client
            else:
                raise ConnectionError(f"request {api} before the login")

    return lock


def _answer(client: socket.socket, correlation: int, body: bytes) -> None:
    client.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)


def _authenticated(
    client: socket.socket, version: int, correlation: int, code: int, text: bytes | None, data: bytes
) -> None:
    if version >= 2:
        message = b"\x00" if text is None else _compact(text)
        body = b"\x00" + struct.pack(">h", code) + message + _compact(data)
        body += struct.pack(">q", 0) + b"\x00"
    else:
        message = struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text
        body = struct.pack(">h", code) + message + struct.pack(">i", len(data)) + data
        body += struct.pack(">q", 0) if version == 1 else b""
    _answer(client, correlation, body)


def _compact(data: bytes) -> bytes:
    """Bytes behind their length plus one, seven bits a byte."""
    rest, size = len(data) + 1, b""
    while rest > 127:
        size += bytes([rest & 127 | 128])
        rest >>= 7
    return size + bytes([rest]) + data


def _uncompacted(body: bytes) -> bytes:
    """The bytes at the head of a body, whose length stands before them."""
    size = shift = at = 0
    while True:
        size |= (body[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if body[at - 1] < 128:
            return body[at : at + size - 1]


class _Plain:
    """PLAIN (RFC 4616)."""

    def send(self, said: bytes) -> tuple[bytes | None, bool]:
        _, user, password = said.split(b"\0")
        return (b"" if (user, password) == (USER.encode(), PASSWORD.encode()) else None), True


class _Bearer(_Plain):
    """OAUTHBEARER (RFC 7628)."""

    def send(self, said: bytes) -> tuple[bytes | None, bool]:
        return (b"" if f"auth=Bearer {TOKEN}".encode() in said.split(b"\x01") else None), True


class _Scram(_Plain):
    """SCRAM (RFC 5802)."""

    def __init__(self, name: str) -> None:
        self._hash = name
        self._salt = os.urandom(16)
        self._first: tuple[str, str] | None = None

    def send(self, said: bytes) -> tuple[bytes | None, bool]:
        text = said.decode()
        if self._first is None:
            bare = text.removeprefix("n,,")
            parts = dict(part.split("=", 1) for part in bare.split(","))
            if parts["n"] != USER:
                return None, True
            salt = base64.b64encode(self._salt).decode()
            challenge = f"r={parts['r']}{os.urandom(8).hex()},s={salt},i=4096"
            self._first = (bare, challenge)
            return challenge.encode(), False
        bare, challenge = self._first
        without_proof, _, proof = text.rpartition(",p=")
        signed = f"{bare},{challenge},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac(self._hash, PASSWORD.encode(), self._salt, 4096)
        client_key = hmac.digest(salted, b"Client Key", self._hash)
        signature = hmac.digest(hashlib.new(self._hash, client_key).digest(), signed, self._hash)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if not hmac.compare_digest(expected, base64.b64decode(proof)):
            return None, True
        server_key = hmac.digest(salted, b"Server Key", self._hash)
        return b"v=" + base64.b64encode(hmac.digest(server_key, signed, self._hash)), True


def _exchange(mechanism: str) -> _Plain:
    match mechanism:
        case "PLAIN":
            return _Plain()
        case "OAUTHBEARER":
            return _Bearer()
        case _:
            return _Scram(mechanism.removeprefix("SCRAM-").replace("-", "").lower())
