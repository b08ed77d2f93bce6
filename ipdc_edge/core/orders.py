"""What a job's master sends to nodes: offers of the job, orders for attempts, and its answers.

Owns what an offer and an order say, and where they go. When something is said, and to whom, is `master.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable

from .architecture import Architecture
from .effects import Send
from .machine import require
from .membership import Membership
from .messages import Command, Download, FromMaster
from .tasks import Tasks
from .values import Attempt, JobSpec


class Orders:
    """Of one job. `append` takes the effects."""

    def __init__(
        self, job: str, spec: JobSpec, architecture: Architecture, membership: Membership, tasks: Tasks,
        append: Callable[[Send], None],
    ) -> None:
        self.job, self.spec, self.architecture = job, spec, architecture
        self.membership, self.tasks, self.append = membership, tasks, append

    def send(self, node: str, message: FromMaster) -> None:
        """A message, if it is known where the node is."""
        address = self.membership.addresses.get(node)
        if address is not None:
            self.append(Send(node, address[0], message))

    def offer(self, node: str) -> None:
        """The offer of the job."""
        own, spec = self.membership.own, self.spec
        self.send(node, Download(self.job, spec.cid, spec.app, spec.memory, own.mqtt, own.gateway, spec.priority))

    def order(self, node: str, ident: str, attempt: Attempt) -> None:
        """The order for an attempt at a task, with where to get what it needs."""
        tasks, membership = self.tasks, self.membership
        require(tasks.is_ready(ident), f"{ident} is ordered before all that it needs is committed")
        task = tasks.states[ident].task
        params = dict(self.architecture.params(self.spec, task, tasks.results, membership.own.id))
        params["gateways"] = {
            provider: membership.addresses[provider][1]
            for provider in params.get("providers", ())
            if provider in membership.addresses
        }
        self.send(node, Command(self.job, task.command, ident, attempt, task.report, params))
