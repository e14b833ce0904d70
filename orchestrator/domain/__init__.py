"""The nouns: plain immutable values and pure rules. Nothing in here does I/O or imports an adapter's library."""
