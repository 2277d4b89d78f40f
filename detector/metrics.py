"""Metrics listen: reports in, Prometheus metrics out. Nothing here names an account, an address or a session.

Counters and histograms start at 0 with the process, as Prometheus expects. Gauges of the store and of the pack are right after the
first cycle; those of drift, of the last training and of when the pack was gone over to tell of this process only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from alerts.incidents import HELD, STATES
from detector import __version__
from detector.events import REASONS
from detector.reports import CycleReport

if TYPE_CHECKING:
    from detector.drift import Drift
    from detector.pack import Pack
    from detector.stores import Counts

LAG_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 14400, 86400)
DURATION_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
SCORES = (1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 30)
PS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
SEVERITIES = ("low", "medium", "high", "critical")
JOBS = ("cycle", "watch_cycle", "train", "first_training", "drift", "digest", "compaction", "retention")
MATURITY = ("new", "young", "mature")


class Metrics:
    """All metrics of a daemon, around a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"unlike_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"unlike_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"unlike_{name}", text, (), registry=registry, buckets=buckets)

        self.events = counter("events", "Events taken in")
        self.rejected = counter("rejected_lines", "Lines and events put into quarantine", "reason")
        self.duplicates = counter("duplicate_events", "Events left out because they had come before")
        self.late = counter("late_events", "Events later than events.lateness, put into quarantine")
        self.sessions = counter("sessions_closed", "Sessions that have ended; each has one verdict")
        self.verdicts = counter("verdicts", "Verdicts, by whether p was within the alert budget", "alarming")
        self.alerts = counter("alerts", "Alarming sessions kept in full, at most 20 an incident and its strongest", "severity")
        self.opened = counter("incidents_opened", "Incidents opened, by their first severity", "severity")
        self.held = counter("held_back", "Alarms that no message was sent of: grouped into an open incident, muted …", "why")
        self.incidents = gauge("incidents", "Incidents, by what became of them", "state")
        self.answered = gauge("answered_incidents", "Incidents that people confirmed or dismissed", "severity", "answer")
        self.precision = gauge("precision", "Share of the answered incidents that people confirmed", "severity")
        self.deliveries = counter("deliveries", "Tries to deliver an alert, by how they ended and to which sink", "outcome", "sink")
        self.event_lag = histogram("event_lag_seconds", "From an event's time to its reading", LAG_S)
        self.scoring_lag = histogram("scoring_lag_seconds", "From a session's newest event to its verdict", LAG_S)
        self.cycle_duration = histogram("cycle_duration_seconds", "Time one cycle took, commit included", DURATION_S)
        self.score = histogram("session_score", "Scores of closed sessions, in nats", SCORES)
        self.p = histogram("session_p_value", "p-values of closed sessions", PS)
        self.last_success = gauge("last_successful_cycle_timestamp_seconds", "When the last good cycle ended")
        self.event_clock = gauge("event_clock_timestamp_seconds", "Newest event time seen")
        self.source_failures = counter("source_failures", "Reads of a source that failed and will be tried again")
        self.queue = gauge("queue_bytes", "Bytes of the sources not read yet")
        self.outbox = gauge("outbox_alerts", "Alerts on their way to a sink")
        self.dead = gauge("dead_letters", "Alerts given up after alerts.max_attempts")
        self.accounts = gauge("accounts", "Accounts known, by sessions known of them: new < 5, young < 20, mature", "maturity")
        self.open_sessions = gauge("open_sessions", "Sessions that have not ended")
        self.store_bytes = gauge("store_bytes", "Size of the store on disk")
        self.quarantine = gauge("quarantine_lines", "Lines kept in quarantine")
        self.pack_info = Info("unlike_pack", "The pack in use", registry=registry)
        self.pack_trained = gauge("pack_trained_until_timestamp_seconds", "Newest event that the pack in use was trained on")
        self.pack_installed = gauge("pack_installed_timestamp_seconds", "When the daemon went over to the pack in use")
        self.pack_sessions = gauge("pack_sessions", "Sessions that the pack in use was trained on; 0: untrained")
        self.trainings = counter("trainings", "Trainings, by how they ended", "outcome")
        self.training_duration = gauge("training_duration_seconds", "Time the last training took")
        self.drift_distance = gauge("drift", "How far the last day is from what was usual at training; above 1 is an alarm", "of")
        self.drift_alarms = counter("drift_alarms", "Days that were farther than usual; the log says what moved")
        self.job_misses = counter("job_misses", "Runs skipped because the one before still ran", "task")
        self.job_failures = counter("job_failures", "Runs that raised an error", "task")
        self.job_hangs = counter("job_hangs", "Runs stopped because they took too long", "task")
        self.reloads = counter("settings_reloads", "SIGHUPs, by whether the settings were taken", "outcome")
        self.alert_budget = gauge("alert_budget_per_day", "Alerts a day that the settings ask for")
        self.alert_rate = gauge("alerts_per_day", "Alerts a day, the mean of at most the last 28 days of the event clock")
        self.alarm_p = gauge("alarm_p_value", "The p-value at which an account without an alarm in the last week alarms now")
        Info("unlike_build", "This program", registry=registry).info({"version": __version__})
        for series, label in (
            (self.alerts, SEVERITIES),
            (self.opened, SEVERITIES),
            (self.held, HELD),
            (self.incidents, STATES),
            (self.job_misses, JOBS),
            (self.job_failures, JOBS),
            (self.job_hangs, JOBS),
            (self.rejected, sorted(REASONS)),
            (self.trainings, ("installed", "failed", "stopped")),
            (self.reloads, ("taken", "refused")),
            (self.drift_distance, ("p_value", "embedding", "facet")),
        ):
            for value in label:  # so that rates are right from the first one on
                series.labels(value)

    def cycle(self, report: CycleReport) -> None:
        """What one cycle did."""
        self.events.inc(report.events)
        self.duplicates.inc(report.duplicates)
        self.late.inc(report.late)
        for reason, lines in report.rejects.items():
            self.rejected.labels(reason).inc(lines)
        for severity, count in report.alerts.items():
            self.alerts.labels(severity).inc(count)
        for severity, count in report.opened.items():
            self.opened.labels(severity).inc(count)
        for why, count in report.held.items():
            self.held.labels(why).inc(count)
        self.sessions.inc(len(report.ps))
        alarming = int((report.ps <= report.threshold).sum())
        self.verdicts.labels("yes").inc(alarming)
        self.verdicts.labels("no").inc(len(report.ps) - alarming)
        pairs = (
            (self.event_lag, report.event_lags_s),
            (self.scoring_lag, report.scoring_lags_s),
            (self.score, report.scores),
            (self.p, report.ps),
        )
        for series, values in pairs:
            for value in values.tolist():
                series.observe(value)
        self.cycle_duration.observe(report.duration_s)
        self.alert_budget.set(report.budget_a_day)
        self.alert_rate.set(report.alerts_a_day)
        self.alarm_p.set(report.threshold)
        if report.event_clock:
            self.event_clock.set(report.event_clock)

    def cycle_succeeded(self, now: float) -> None:
        """Every commit of a cycle went through; sources that could not be read are counted on their own."""
        self.last_success.set(now)

    def counts(self, counts: Counts, unread_bytes: int) -> None:
        """What the store holds."""
        new, young, mature = sum(counts.histories[:2]), counts.histories[2], sum(counts.histories[3:])
        for maturity, accounts in zip(MATURITY, (new, young, mature), strict=True):
            self.accounts.labels(maturity).set(accounts)
        self.open_sessions.set(counts.open_sessions)
        self.outbox.set(counts.outbox)
        self.dead.set(counts.dead_letters)
        self.store_bytes.set(counts.store_bytes)
        self.quarantine.set(sum(counts.quarantine.values()))
        self.queue.set(unread_bytes)

    def incidents_are(self, by_state: Mapping[tuple[str, str], int]) -> None:
        """(severity, state) -> incidents, all of them."""
        for state in STATES:
            self.incidents.labels(state).set(sum(n for (_, of), n in by_state.items() if of == state))
        for severity in SEVERITIES:
            confirmed, dismissed = (by_state.get((severity, state), 0) for state in ("confirmed", "dismissed"))
            self.answered.labels(severity, "confirmed").set(confirmed)
            self.answered.labels(severity, "dismissed").set(dismissed)
            self.precision.labels(severity).set(confirmed / (confirmed + dismissed) if confirmed + dismissed else math.nan)

    def delivered(self, by_sink: Mapping[tuple[str, str], int]) -> None:
        """What one round of delivery did: (outcome, sink) -> tries."""
        for (outcome, sink), count in by_sink.items():
            self.deliveries.labels(outcome, sink).inc(count)

    def sinks(self, names: Iterable[str]) -> None:
        """The sinks of the settings: their series begin at 0."""
        for sink in names:
            for outcome in ("sent", "retried", "dead"):
                self.deliveries.labels(outcome, sink)

    def pack(self, pack: Pack, now: float) -> None:
        """The pack in use, when the daemon goes over to it."""
        self.pack_info.info({"id": pack.id, "trained": "yes" if pack.fusion else "no"})
        self.pack_trained.set(max(pack.trained_until, 0))
        self.pack_sessions.set(pack.sessions)
        self.pack_installed.set(now)

    def trained(self, outcome: str, duration_s: float) -> None:
        """How a training ended."""
        self.trainings.labels(outcome).inc()
        self.training_duration.set(duration_s)

    def drift(self, drift: Drift) -> None:
        """How far the population has moved."""
        for of, relative in drift.relative.items():
            self.drift_distance.labels(of).set(relative)

    def drift_alarm(self) -> None:
        """A day was farther than usual."""
        self.drift_alarms.inc()

    def source_failed(self) -> None:
        """A source could not be read."""
        self.source_failures.inc()

    def job_missed(self, job: str) -> None:
        """A run was skipped."""
        self.job_misses.labels(job).inc()

    def job_failed(self, job: str) -> None:
        """A run raised an error."""
        self.job_failures.labels(job).inc()

    def job_hung(self, job: str) -> None:
        """A run was stopped."""
        self.job_hangs.labels(job).inc()

    def reloaded(self, taken: bool) -> None:
        """A SIGHUP came."""
        self.reloads.labels("taken" if taken else "refused").inc()


def metrics_table() -> str:
    """Markdown: name, type, labels and meaning of every metric of our own, for README."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    collectors = [c for c in Metrics().registry._collector_to_names if isinstance(c, MetricWrapperBase)]
    for c in collectors:
        kind = c._type
        name = c._name + {"counter": "_total", "info": "_info"}.get(str(kind), "")
        rows.append(f"| `{name}` | {kind} | {', '.join(c._labelnames)} | {c._documentation} |")
    return "\n".join(rows)
