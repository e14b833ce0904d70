"""One module a revision, oldest number first. Expand first, contract in a later release."""
