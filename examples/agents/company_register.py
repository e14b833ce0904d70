"""Company register: finds a company by its name or registration number.

The plainest kind of agent, a look-up without side effects. Copy this one for a first agent of your own.
"""

from __future__ import annotations

import zlib
from typing import Any

from ._server import Agent, Call, Problem, serve

COMPANIES = [
    ("Northwind Bearings GmbH", "HRB 104233", "Hafenstrasse 12, 20457 Hamburg, Germany"),
    ("Aster Textiles Ltd", "GB 07719201", "4 Mill Lane, Leeds LS1 4DT, United Kingdom"),
    ("Lumen Optik AG", "CHE-114.882.930", "Seeweg 3, 6300 Zug, Switzerland"),
    ("Delta Marine Trading FZE", "AE 550172", "Free Zone Road 9, Dubai, United Arab Emirates"),
]
LEGAL_FORMS = {"ab", "ag", "bv", "corp", "fze", "gmbh", "inc", "llc", "ltd", "oy", "plc", "sa", "sas", "spa", "srl"}
TOWNS = ["Aarhus", "Bilbao", "Cork", "Dresden", "Eindhoven", "Faro", "Ghent", "Helsinki"]


def look_up(call: Call) -> dict[str, Any]:
    """Legal name, registration number and address of a company."""
    wanted = " ".join(call.text("company").casefold().split())
    for legal_name, number, address in COMPANIES:
        if wanted in (legal_name.casefold(), number.casefold()):
            return {"legal_name": legal_name, "registration_number": number, "address": address}
    return made_up(call.text("company"))


def made_up(name: str) -> dict[str, Any]:
    """An entry for any other name with a legal form, always the same one, so that you can try names of your own."""
    if name.casefold().replace(".", "").split()[-1] not in LEGAL_FORMS:
        raise Problem(404, "Company unknown", f"no company {name!r}; any name that ends in GmbH, Ltd, Inc… is found")
    digits = zlib.crc32(name.casefold().encode())
    address = f"{digits % 90 + 1} Market Street, {TOWNS[digits % len(TOWNS)]}"
    return {"legal_name": name, "registration_number": f"REG {digits:010d}", "address": address}


agent = Agent("company_register", look_up)

if __name__ == "__main__":
    serve(agent)
