"""Setting up, building, installing, and the files that production runs on."""
