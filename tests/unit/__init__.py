"""Pure logic, no processes."""
