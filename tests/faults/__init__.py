"""Every fault point, fired by kill -9 in real processes; `failure_table.yaml` says what then holds."""
