"""The command line, one module per noun. The work is done by what `parts` brings from the wiring."""
