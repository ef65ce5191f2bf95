"""The workers' Prometheus metrics: names, units and labels in one place, by Prometheus' conventions."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

RECORDS_MISSED = Counter(
    "tiderank_records_missed", "Offsets that the broker had deleted before they were read", ["topic"]
)
OPEN_TRANSACTION_SECONDS = Gauge(
    "tiderank_open_transaction_seconds",
    "How long the oldest open transaction of a sender has held back what came after it",
    ["topic"],
    multiprocess_mode="max",
)
PROCESSOR_SECONDS = Counter(
    "tiderank_processor_seconds", "Processor time of the worker's own thread, by phase of its loop", ["phase"]
)
REFUSED = Counter("tiderank_refused_records", "Records sent to the dead-letter topic", ["worker"])
RESPONSES = Counter("tiderank_responses", "Responses by status, with the reason of those not ok", ["status", "reason"])
DEADLINE_LIMITED = Counter(
    "tiderank_deadline_limited_requests", "Requests whose deadline ruled out a plan that would have taken too long"
)
RANKING_SECONDS = Histogram(
    "tiderank_ranking_seconds", "From the request's broker timestamp to its answer", buckets=SECONDS
)
FRESHNESS_SECONDS = Histogram(
    "tiderank_freshness_seconds",
    "From a click's broker timestamp to this process's first answer, by tier, with weights that had learned from it",
    ["tier"],
    buckets=SECONDS,
)
UPDATES_APPLIED = Counter("tiderank_updates_applied", "Weight updates applied in place")
UPDATES_SKIPPED = Counter("tiderank_updates_skipped", "Records of model.updates not applied, by reason", ["reason"])
COMPILED = Gauge(
    "tiderank_compiled_tier",
    "1 for a tier that is scored by its compiled graph, 0 for one that runs operator by operator",
    ["tier"],
    multiprocess_mode="mostrecent",
)
MODEL_NUMBER = Gauge("tiderank_model_number", "Update number of the weights in force", multiprocess_mode="mostrecent")
MODEL_FAULT = Gauge(
    "tiderank_model_fault", "1 while a fault in the update log keeps updates out", multiprocess_mode="mostrecent"
)

EVENTS = Counter("tiderank_events", "Facts taken in by the join, by what became of them", ["outcome"])
EXAMPLES = Counter(
    "tiderank_examples",
    "Labelled examples, by kind, label and what decided the label (provisional: nothing yet)",
    ["kind", "label", "by"],
)
REDIS_PAUSES = Counter("tiderank_redis_pauses", "Times that a worker waited for Redis", ["worker"])

LEARNED = Counter("tiderank_examples_learned", "Examples that a training step took in")
LEARNED_RESPONSES = Counter(
    "tiderank_responses_learned", "Responses whose examples a step took in together: their request's side is paid once"
)
SKIPPED = Counter("tiderank_examples_skipped", "Examples not learned, by reason", ["reason"])
TRAINING_BEHIND_SECONDS = Gauge(
    "tiderank_training_behind_seconds",
    "How long the newest example that the trainer has read had been on its topic",
    multiprocess_mode="mostrecent",
)
STEPS = Counter("tiderank_training_steps", "Training steps, by whether they were applied", ["applied"])
STEP_SECONDS = Histogram("tiderank_training_step_seconds", "Reading logs and one training step", buckets=SECONDS)
UPDATE_BYTES = Counter("tiderank_update_bytes", "Bytes put on model.updates")
SNAPSHOTS = Counter("tiderank_snapshots", "Snapshots written")
SNAPSHOTS_FAILED = Counter("tiderank_snapshots_failed", "Snapshots that could not be written")
SNAPSHOT_PAUSE_SECONDS = Histogram(
    "tiderank_snapshot_pause_seconds", "Copying the state for a snapshot, while training waits", buckets=SECONDS
)
GATE_BREACHES = Counter("tiderank_gate_breaches", "Rollbacks that the gate ordered, by the test that spoke", ["test"])
GATE_CLOSED = Gauge("tiderank_gate_closed", "1 while labels are kept out of training", multiprocess_mode="mostrecent")
GATE_LEVEL = Gauge(
    "tiderank_gate_level", "Of each test of labels: 1 is where it speaks", ["test"], multiprocess_mode="mostrecent"
)
GATE_REFERENCES_DROPPED = Counter(
    "tiderank_gate_references_dropped", "References that were wrong themselves: an older one found nothing strange"
)
QUARANTINED = Counter("tiderank_examples_quarantined", "Examples that the gate kept out of training, or took back")
NORMALIZED_ENTROPY = Gauge(
    "tiderank_normalized_entropy",
    "Of served predictions, over the newest examples, by kind of label",
    ["kind"],
    multiprocess_mode="mostrecent",
)
PREDICTED = Counter("tiderank_predicted_positives", "Sum of served probabilities of what was graded, by kind", ["kind"])
POSITIVES = Counter("tiderank_positives", "Positive labels among what was graded, by kind", ["kind"])

REWARD_FACTS = Counter("tiderank_reward_facts", "Decisions and outcomes, by what became of them", ["outcome"])
REWARDS_HELD_SECONDS = Gauge(
    "tiderank_rewards_held_seconds",
    "How long the join's clock has stood still while decisions wait for what they earn; 0 while it goes on",
    multiprocess_mode="mostrecent",
)
REWARDS = Counter("tiderank_rewards", "Rewards produced: of closed windows, late, or of windows gone unswept", ["kind"])
ROUTER_LEARNED = Counter("tiderank_router_rewards_learned", "Rewards that the value model took in")
ROUTER_SKIPPED = Counter("tiderank_router_rewards_skipped", "Rewards not learned, by reason", ["reason"])
ROUTER_NUMBER = Gauge("tiderank_router_number", "Number of the newest router.model", multiprocess_mode="mostrecent")
ROUTER_PRICE = Gauge(
    "tiderank_router_price", "Earnings that a millisecond of compute must bring", multiprocess_mode="mostrecent"
)
ROUTER_SPENT_MS = Gauge(
    "tiderank_router_spent_milliseconds", "Mean compute of a request, newest window", multiprocess_mode="mostrecent"
)


def begin(worker: str) -> None:
    """Makes the series that alerts watch for a rise: one that first appears at 40 has not risen."""
    REFUSED.labels(worker)
    if worker == "ingest":
        EVENTS.labels("implausible")
