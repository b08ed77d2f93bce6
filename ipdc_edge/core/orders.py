"""What a job's master asks of nodes: to take the job, and to work on an attempt. Pure forms; `master.py` sends them."""

from __future__ import annotations

from .architecture import Architecture
from .machine import require
from .membership import Membership
from .messages import Command, Download
from .tasks import Tasks
from .values import Attempt, JobSpec


def offer(job: str, spec: JobSpec, membership: Membership) -> Download:
    """The offer of a job of this node's."""
    own = membership.own
    return Download(job, spec.cid, spec.app, spec.memory, own.mqtt, own.gateway, spec.priority)


def order(
    job: str, spec: JobSpec, architecture: Architecture, membership: Membership, tasks: Tasks, ident: str,
    attempt: Attempt,
) -> Command:
    """The order for an attempt at a task, with where to get what it needs."""
    require(tasks.is_ready(ident), f"{ident} is ordered before all that it needs is committed")
    task = tasks.states[ident].task
    params = dict(architecture.params(spec, task, tasks.results, membership.own.id))
    params["gateways"] = {
        provider: membership.addresses[provider][1]
        for provider in params.get("providers", ())
        if provider in membership.addresses
    }
    return Command(job, task.command, ident, attempt, task.report, params)
