"""Where a planted bug may change what a host does. The base class changes nothing: the protocol as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.control.domains import Transaction
from services.control.holdings import Event, Ownership, OwnershipPolicy
from services.control.ownership import step
from services.control.recovery import Checked, Recovery, Report, judge

if TYPE_CHECKING:
    from services.control.holdings import Action
    from verification.simulation.world import Clock


class Variant:
    """The protocol as it is. `name` goes into replay commands."""

    name = "faithful"
    what = "the protocol as it is"

    checks_the_deadline = True
    empties_the_page = True
    has_a_watchdog = True
    reports_doubt = True
    refused_writes_look_again = True
    tells_a_parted_agent = True
    compares_its_own_record = True
    matches_answers = True
    tries_again = True
    looks_when_it_speaks_again = True
    sends_twice = False
    remembers_its_epoch = True
    writes_compare_the_domain = True
    writes_compare_the_cell = True
    loads_state_on_promotion = True
    reads_state_anew = True
    demotes_leftovers = True

    def policy(self, policy: OwnershipPolicy) -> OwnershipPolicy:
        return policy

    def clock(self, clock: Clock, true_ns: int) -> int:
        """What the host takes for the time."""
        return clock.local(true_ns)

    def step(
        self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy
    ) -> tuple[Ownership, tuple[Action, ...]]:
        return step(own, event, now_ns, policy)

    def transaction(self, transaction: Transaction) -> Transaction:
        return transaction

    def order(self, order: tuple[str, ...]) -> tuple[str, ...]:
        """In which order a host starts the agents that it lacks."""
        return order

    def judge(self, recovery: Recovery, checked: Checked) -> Report:
        """The validation of a promoted agent."""
        return judge(recovery, checked)

    def restarted(self, fresh: Ownership, before: Ownership | None) -> Ownership:
        """The state of a daemon that begins; `before`: the one that it had when it ended."""
        return fresh
