"""The sandbox that workflow code runs in."""

from __future__ import annotations

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

PASSED_THROUGH = tuple(f"batch.workflows.{name}" for name in ("contracts", "states", "budget", "run_state"))
"""Without state, clock or I/O: loaded once a process, where each execution loaded its own in 50 ms (measured)."""


def workflow_runner() -> SandboxedWorkflowRunner:
    """Temporal's own restrictions, but for the modules that are passed through."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))
