"""The shape of the project: what imports what, what is where, and what a file may hold."""
