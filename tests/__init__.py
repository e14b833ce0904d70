"""All tests; the folders say on what they stand."""
