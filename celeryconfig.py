"""Celery's settings: plain values from ours (docs/settings.md), each with its reason.

Every `celery -A orchestrator …` reads them.
"""

from kombu.entity import Exchange as _Exchange
from kombu.entity import Queue as _Queue

from orchestrator.settings import get_settings as _get_settings
from orchestrator.worker import broker as _broker
from orchestrator.worker import names as _names
from orchestrator.worker import pool as _pool

_settings = _get_settings()

# -- the broker: a doorbell. It may be emptied at any moment; PostgreSQL holds the tasks
broker_url = _broker.broker_url(_settings)
broker_use_ssl = _broker.broker_tls(_settings)  # with rediss:// the server's certificate is checked
broker_transport_options = _broker.transport_options(_settings)  # time-outs, priorities, key prefix: reasons there
broker_connection_retry_on_startup = True  # a worker may be started before Redis
broker_connection_max_retries = None  # and waits for it as long as it takes
worker_cancel_long_running_tasks_on_connection_loss = False  # a blip of Redis is no reason to break off an agent's call

# -- messages: ids and numbers, so nothing but JSON
accept_content = ["json"]
task_serializer = "json"
result_backend = None  # results are in PostgreSQL; nothing to expire, nothing to leak
task_ignore_result = True  # the same
task_publish_retry = False  # who publishes has committed before; the sweep repeats what was lost
enable_utc = True  # the journal's times are UTC

# -- queues
task_default_queue = _names.STEPS_QUEUE
task_queues = [  # in the order in which they are served, within each priority
    _Queue(name, _Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]  # kombu ships few types
    for name in (_names.CONTROL_QUEUE, *_names.SERVED)
]
task_routes = {
    _names.STEP: {"queue": _names.STEPS_QUEUE},
    _names.DELEGATE: {"queue": _names.DELEGATIONS_QUEUE},
    _names.CANCEL_CALL: {"queue": _names.CANCELS_QUEUE},
    # Urgent whatever waits: without sweeps nothing ages and nothing lost is found.
    _names.RETRY: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.CANCEL: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.UNDO: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.PAUSE: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.RESUME: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.RESTART: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.ANSWER: {"queue": _names.CONTROL_QUEUE, "priority": 0},
    _names.PRUNE: {"queue": _names.CONTROL_QUEUE},
    _names.SWEEP: {"queue": _names.CONTROL_QUEUE, "priority": 0},
}
task_create_missing_queues = False  # a misspelt queue is an error, not a place where steps vanish
task_default_priority = 5  # in the middle of Redis's ten lists, for a step that is sent by hand

# -- the worker
imports = ("orchestrator.worker.tasks", "orchestrator.worker.signals")
worker_pool = _pool.POOL  # steps wait for models and agents: threads hold hundreds of calls in little memory
worker_concurrency = _settings.concurrency
worker_prefetch_multiplier = 1  # a worker holds what it runs and as much again, so that others get their share
worker_disable_rate_limits = True  # ours are asked before a call, shared by all workers; these would cost each message
task_acks_late = True  # the sweep rings for what a killed worker had in hand; leases make repeated messages harmless
worker_hijack_root_logger = False  # logging is ours (ORCHESTRATOR_LOG_LEVEL, ORCHESTRATOR_LOG_FORMAT)
worker_redirect_stdouts = False  # the same

# -- Flower: every step is seen from its sending on
worker_send_task_events = True
task_send_sent_event = True

# -- beat
beat_schedule = {
    "sweep": {
        "task": _names.SWEEP,
        "schedule": _settings.sweep_interval,
        "options": {"expires": max(10.0, 3 * _settings.sweep_interval), "priority": 0},  # piled up they are worth one
    },
    # Old rows, a minute's worth at a time: a day of traffic is removed within the day.
    "prune": {
        "task": _names.PRUNE,
        "schedule": _settings.prune_interval,
        "options": {"expires": max(10.0, _settings.prune_interval)},
    },
}
beat_scheduler = "celery.beat:Scheduler"  # intervals need no file to remember them by
beat_max_loop_interval = max(0.1, _settings.sweep_interval)  # look as often as the schedule can be due
