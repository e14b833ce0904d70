"""What `orchestrator dev` plays: the embedded servers with every process beside them, and the sample scenario."""
