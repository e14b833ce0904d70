"""Contract draft: draws up a supply contract. An agent with a side effect: each call makes a contract.

Called twice with one Idempotency-Key it makes one contract and answers twice with it. It refuses for good (422)
what must not be signed. ``contract_withdraw`` beside it undoes a draft: agents.yaml names it under ``compensate``.
Copy this one for an agent that changes something.
"""

from __future__ import annotations

import uuid
from typing import Any

from ._server import Agent, Call, Problem, serve

DRAFTS: dict[str, str] = {}
"""Contract id → ``drafted`` or ``withdrawn``; a real agent keeps them in its database."""


def draft(call: Call) -> dict[str, Any]:
    """A contract with a supplier that is screened, scored and approved."""
    legal_name, approved_by = call.text("legal_name"), call.text("approved_by")
    if call.text("sanctions_status") != "clear":
        raise Problem(422, "Supplier is sanctioned", f"{legal_name} is on a sanctions list: no contract may be drafted")
    contract_id = f"CT-{uuid.uuid4().hex[:8]}"
    DRAFTS[contract_id] = "drafted"
    return {
        "contract_id": contract_id,
        "contract_url": f"https://contracts.example/{contract_id}",
        "payment_terms_days": payment_terms(call.integer("credit_score")),
        "parties": [legal_name, f"approved by {approved_by}"],
    }


def withdraw(call: Call) -> dict[str, Any]:
    """Take a draft back. Withdrawing one that is withdrawn already is no mistake: it is gone, which was wanted."""
    contract_id = call.text("contract_id")
    if contract_id not in DRAFTS:
        raise Problem(404, "Contract unknown", f"there is no contract {contract_id} here")
    DRAFTS[contract_id] = "withdrawn"
    return {"contract_id": contract_id, "status": "withdrawn"}


def payment_terms(credit_score: int) -> int:
    """Days until we pay: the weaker the supplier, the sooner it needs the money."""
    return 60 if credit_score >= 75 else 30 if credit_score >= 50 else 14


agent = Agent("contract_draft", draft, side_effects=True)
undo = Agent("contract_withdraw", withdraw, side_effects=True)

if __name__ == "__main__":
    serve(agent, undo)
