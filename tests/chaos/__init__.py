"""The storm: the real product under faults that a seed decides, and a count of what was lost or done twice.

    python -m tests.chaos --duration 120 --seed 7        (make chaos DURATION=120 SEED=7)

Read it downward: `plan` draws faults and arrivals from the seed; `cast` says which agents there are and what every task
must end with; `agents_program` is those agents, behaving badly, with their ledger; `world` runs servers and processes;
`faults` strikes; `traffic` produces; `person` meddles, and the `bystanders` answer and reply; `audit` reads what became
of it all, by the `accounts` of each sort of task; `calm` sees what is waited for at the end, and `normal` says how long
that may be; `report` is the table; `storm` is the course.
"""
