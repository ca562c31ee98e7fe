"""What privacy costs: events, accountants, calibration, budgets, and the ledger that keeps them across runs."""

from manent.accounting import mechanisms
from manent.accounting.accountants import Guarantee, epsilon
from manent.accounting.attacks import Attack
from manent.accounting.budget import Budget, Period
from manent.accounting.calibration import calibrate
from manent.accounting.counter import Counter, FileCounter
from manent.accounting.dpsgd import example_event, example_noise
from manent.accounting.events import Event, NeighboringRelation, training, without_sampling
from manent.accounting.ledger import Account, Cost, Ledger, Reservation, Running
from manent.accounting.mechanisms import *  # noqa: F403  # every event, under its own name
from manent.accounting.mechanisms.distributed_discrete_gaussian import rounded_norm, tau

__all__ = [
    "Account",
    "Attack",
    "Budget",
    "Cost",
    "Counter",
    "Event",
    "FileCounter",
    "Guarantee",
    "Ledger",
    "NeighboringRelation",
    "Period",
    "Reservation",
    "Running",
    "calibrate",
    "epsilon",
    "example_event",
    "example_noise",
    "rounded_norm",
    "tau",
    "training",
    "without_sampling",
]
__all__ += mechanisms.__all__
