"""Benchmarks: what a step costs, beside the same work without an engine and on plain Celery. Run by `make bench`.

`__main__` runs and prints; `work` says what the work is; `agent` is the agent that all of them call; `raw`,
`plain_celery` and `ours` do the work; `servers` starts what they stand on; `measure` counts. Nothing in here is
imported by the product or by tests of its behaviour: figures depend on the machine, so they are never asserted.
"""
