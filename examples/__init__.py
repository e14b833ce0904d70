"""A scenario to try the orchestrator with: sample agents, their registry, event types and Kafka messages.

Nothing here is imported by the orchestrator itself. README.md tells what each file is.
"""
