"""`tiderank audit`: an account of every id, from outside. Reads topics and Redis, never the workers' own counters."""

from streams.audit.report import AuditReport
from streams.audit.run import run_audit

__all__ = ["AuditReport", "run_audit"]
