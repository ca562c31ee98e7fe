"""The mechanisms: one file each, with its event, Rényi curve, privacy loss distribution, errors and claims.

A new one costs its file, its import and its name in `__all__`: what stands there is known to ledgers.
"""

from manent.accounting.mechanisms.composition import Composed, Repeated
from manent.accounting.mechanisms.discrete_gaussian import DiscreteGaussian
from manent.accounting.mechanisms.discrete_laplace import DiscreteLaplace
from manent.accounting.mechanisms.distributed_discrete_gaussian import DistributedDiscreteGaussian
from manent.accounting.mechanisms.gaussian import Gaussian, RoundedGaussian
from manent.accounting.mechanisms.matrix_factorisation import MatrixFactorisation
from manent.accounting.mechanisms.pure_release import PureRelease
from manent.accounting.mechanisms.sampling.fixed_size import FixedSize
from manent.accounting.mechanisms.sampling.poisson import Poisson
from manent.accounting.mechanisms.sampling.sampled import Sampled
from manent.accounting.mechanisms.sampling.truncated_poisson import TruncatedPoisson
from manent.accounting.mechanisms.skellam import Skellam
from manent.accounting.mechanisms.zero_concentrated import ZeroConcentrated
from manent.accounting.protocol import register

__all__ = [
    "Composed",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "DistributedDiscreteGaussian",
    "FixedSize",
    "Gaussian",
    "MatrixFactorisation",
    "Poisson",
    "PureRelease",
    "Repeated",
    "RoundedGaussian",
    "Sampled",
    "Skellam",
    "TruncatedPoisson",
    "ZeroConcentrated",
]

register(*(globals()[name] for name in __all__))
