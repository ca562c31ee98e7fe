"""What privacy costs: events, accountants, calibration, budgets, and the ledger that keeps them across runs."""

from manent.accounting.accountants import Guarantee, epsilon
from manent.accounting.budget import Budget
from manent.accounting.calibration import calibrate
from manent.accounting.counter import Counter, FileCounter
from manent.accounting.curves import rounded_norm, tau
from manent.accounting.dpsgd import example_event, example_noise
from manent.accounting.events import (
    Composed,
    DiscreteGaussian,
    DiscreteLaplace,
    DistributedDiscreteGaussian,
    Event,
    FixedSize,
    Gaussian,
    MatrixFactorisation,
    NeighboringRelation,
    Poisson,
    PureRelease,
    Repeated,
    RoundedGaussian,
    Sampled,
    Skellam,
    TruncatedPoisson,
    ZeroConcentrated,
    training,
    without_sampling,
)
from manent.accounting.ledger import Account, Cost, Ledger, Reservation

__all__ = [
    "Account",
    "Budget",
    "Composed",
    "Cost",
    "Counter",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "DistributedDiscreteGaussian",
    "Event",
    "FileCounter",
    "FixedSize",
    "Gaussian",
    "Guarantee",
    "Ledger",
    "MatrixFactorisation",
    "NeighboringRelation",
    "Poisson",
    "PureRelease",
    "Repeated",
    "Reservation",
    "RoundedGaussian",
    "Sampled",
    "Skellam",
    "TruncatedPoisson",
    "ZeroConcentrated",
    "calibrate",
    "epsilon",
    "example_event",
    "example_noise",
    "rounded_norm",
    "tau",
    "training",
    "without_sampling",
]
