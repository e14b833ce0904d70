"""One behaviour promised at an edge, tried on the real thing."""
