"""Kafka as we use it: how to connect (TLS, SASL), the topics, producing. With `bridge` the only code that knows kafka.

`connection` opens clients from the settings; `oauth` brings tokens for OAUTHBEARER; `topics` makes the topics and waits
for them; `producer` sends single records for the command line.
"""
