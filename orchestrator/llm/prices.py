"""What a model's tokens cost: a table that ships with the project (dated), and the user's own before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from orchestrator.domain.budget import Price
from orchestrator.errors import ConfigurationError

_PER = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by ``provider:model``; a name that ends in ``*`` stands for all that begin so."""

    prices: Mapping[str, Price]
    as_of: str
    """The date of the shipped prices."""
    currency: str

    def of(self, model: str) -> Price | None:
        """The price of a model's tokens; None: not known. The exact name counts first, then the longest beginning."""
        if model in self.prices:
            return self.prices[model]
        fitting = [name for name in self.prices if name.endswith("*") and model.startswith(name[:-1])]
        return self.prices[max(fitting, key=len)] if fitting else None


def load_prices(own: Path | None = None) -> PriceTable:
    """The shipped table with the entries of the user's file before it.

    Raises:
        ConfigurationError: the file cannot be read or is no price table.
    """
    shipped = yaml.safe_load(files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8"))
    prices = _prices(shipped, "prices.yaml")
    currency = str(shipped["currency"])
    if own is not None:
        document = _document(own)
        mine = _prices(document, str(own))
        named = str(document.get("currency", currency))
        if named != currency:
            # Two currencies in one sum would bound nothing: the file then stands alone.
            prices, currency = {}, named
        prices = {name: price for name, price in prices.items() if not _covered(name, mine)} | mine
    return PriceTable(prices, str(shipped["as_of"]), currency)


def _covered(name: str, mine: Mapping[str, Price]) -> bool:
    """Whether an entry of the user's stands for everything that a shipped one does."""
    return any(own.endswith("*") and name.startswith(own[:-1]) for own in mine)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"ORCHESTRATOR_PRICES: {path} cannot be read: {error}") from error
    if not isinstance(document, Mapping):
        raise _wrong(str(path), "it must be an object with `models`")
    return document


def _prices(document: Mapping[str, Any], where: str) -> dict[str, Price]:
    models = document.get("models")
    if not isinstance(models, Mapping) or not models:
        raise _wrong(where, "`models` must name at least one model")
    return {str(name): _price(str(name), entry, where) for name, entry in models.items()}


def _price(name: str, entry: Any, where: str) -> Price:
    if not isinstance(entry, Mapping) or set(entry) != {"prompt", "answer"}:
        raise _wrong(where, f"{name} must have `prompt` and `answer`, each for a million tokens")
    amounts = []
    for part in ("prompt", "answer"):
        try:
            amount = Decimal(str(entry[part]))
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            raise _wrong(where, f"{name}: `{part}` must be a number, 0 or more")
        amounts.append(amount / _PER)
    return Price(*amounts)


def _wrong(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"ORCHESTRATOR_PRICES: {where}: {what}", hint="docs/budgets.md has an example.")
