"""The embedded stack: PostgreSQL, Valkey and a broker of Kafka's protocol, from Python wheels, as children of ours.

For `orchestrator dev`, the demo and the tests; production never imports it. Start at `stack.EmbeddedStack`.

- `wheels` finds the programs inside the installed wheels.
- `server` is what the three servers share (port, start, ready check, stop); `postgres`, `valkey` and `kafka` are they.
- `process` is a supervised child with a log file; `keeper` starts it so that it never outlives us.
- `folder` guards the data folder: one stack at a time, and no stray process of an earlier one.
"""
