"""All sample agents in one process: ``python -m examples.agents --port 8090``."""

from __future__ import annotations

from . import company_register, contract_draft, credit_score, notification, sanctions_screening
from ._server import serve

if __name__ == "__main__":
    serve(
        company_register.agent,
        credit_score.agent,
        sanctions_screening.agent,
        contract_draft.agent,
        contract_draft.undo,
        notification.agent,
    )
