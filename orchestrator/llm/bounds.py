"""How many tokens a prompt can have at most, without asking its provider. Pure.

A token of a model that reads bytes has at least one of them, so a text never has more tokens than bytes: that is the
bound for everything from outside. Our own instructions and the tools (made from our text and agents.yaml) are
ordinary language, which no tokenizer in use cuts into pieces of less than two and a half bytes on average; characters
beyond ASCII count one token a byte there too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.llm.prompt import Prompt

LEAST_ANSWER = 512
"""Tokens: with less room a model's answer would be cut off, and paid for."""

_OUR_BYTES_PER_TOKEN = 2.5
_LIKELY_BYTES_PER_TOKEN = 3.0
_FRAME = 64
"""Tokens that a provider puts around messages and tools."""
_TOOL_FRAME = 16


def prompt_tokens_at_most(prompt: Prompt, tools: Sequence[Mapping[str, Any]]) -> int:
    """An upper bound of the prompt's tokens."""
    ours = _ours(prompt.system) + _ours(json.dumps(tools, ensure_ascii=False))
    return _FRAME + _TOOL_FRAME * len(tools) + ours + len(prompt.user.encode("utf-8", "replace"))


def likely_tokens(prompt: Prompt, tools: Sequence[Mapping[str, Any]]) -> int:
    """About how many tokens the prompt has: for choosing how far to cut it, never for bounding what it costs."""
    size = len(prompt.system) + len(prompt.user.encode("utf-8", "replace")) + len(json.dumps(tools, ensure_ascii=False))
    return math.ceil(size / _LIKELY_BYTES_PER_TOKEN)


def _ours(text: str) -> int:
    ascii_characters = sum(character.isascii() for character in text)
    others = len(text.encode("utf-8", "replace")) - ascii_characters
    return math.ceil(ascii_characters / _OUR_BYTES_PER_TOKEN) + others
