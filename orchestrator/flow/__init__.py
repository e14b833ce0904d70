"""The verbs: what is done with a task, written over ports only. No celery, SQL, HTTP, Kafka or LangChain in here."""
