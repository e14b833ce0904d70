"""The bridge: Kafka records become accepted messages in PostgreSQL and Celery chains; updates go back to Kafka.

Read it downward: `__main__` builds and runs; `consumer` polls, pauses and rebalances; `position` decides where reading
begins; `decode` (on `strict_json`) turns a record into a message or says why it is none; `intake` takes a batch in;
`dead_letter` bounds a flood of bad records; `updates` publishes what was committed.
"""
