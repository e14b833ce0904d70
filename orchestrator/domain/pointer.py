"""JSON pointers (RFC 6901): how ``provides``, ``requires``, ``fills`` and ``record`` name a place in a document."""

from __future__ import annotations

from typing import Any


class PointerError(ValueError):
    """The pointer is malformed or points to nothing."""


def resolve(document: Any, pointer: str) -> Any:
    """The value at ``pointer`` in a JSON document.

    ``""`` is the whole document; a pointer without a leading ``/`` is taken as one top-level key, since that is what
    people write in YAML.

    Raises:
        PointerError: when nothing is there.
    """
    if pointer == "":
        return document
    tokens = (
        [t.replace("~1", "/").replace("~0", "~") for t in pointer[1:].split("/")] if pointer[0] == "/" else [pointer]
    )
    value = document
    for token in tokens:
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and token.isascii() and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            raise PointerError(f"nothing at {pointer!r}: {token!r} is not there")
    return value
