"""Apache Kafka itself: the bridge's tests on the real broker, and those that need its log (``make test-kafka``).

Java 17 and Maven have to be on the machine; without them these tests are not collected, and `make test` says nothing
of them. `classpath` finds the jars, `apache` runs the broker in KRaft mode, `__main__` runs the tests.
"""
