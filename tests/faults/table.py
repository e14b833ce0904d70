"""The failure table: read for tests, and written into docs/failure-semantics.md by ``python -m tests.faults.table``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
DOC = HERE.parents[1] / "docs" / "failure-semantics.md"
BEGIN = "<!-- the failure table: written by `python -m tests.faults.table` -->"
END = "<!-- end of the failure table -->"


@dataclass(frozen=True)
class Row:
    """What holds when a process dies at a fault point."""

    point: str
    dies: str
    then: str
    repeated: str
    test: str


def rows() -> list[Row]:
    """All rows, in the file's order."""
    text = (HERE / "failure_table.yaml").read_text(encoding="utf-8")
    return [Row(**row) for row in yaml.safe_load(text)]


def as_markdown() -> str:
    """The table as it stands in the docs."""
    lines = ["| what dies, and when | what happens | what is done twice | fault point |", "|---|---|---|---|"]
    lines += [f"| {row.dies} | {row.then} | {row.repeated} | `{row.point}` |" for row in rows()]
    return "\n".join(lines)


def section_of(text: str) -> str:
    """The table as a document has it. Raises ValueError where its marks are missing."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[begin:end].strip()


def rewrite() -> None:
    """Write the table into the docs."""
    text = DOC.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOC.write_text(f"{before}\n\n{as_markdown()}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
