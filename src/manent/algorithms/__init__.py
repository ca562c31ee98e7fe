"""Training algorithms, each in a file of its own."""

from manent.algorithms.fedadagrad import FedAdagrad
from manent.algorithms.fedadam import FedAdam
from manent.algorithms.fedavg import FedAvg, FedSGD
from manent.algorithms.fedavgm import FedAvgM
from manent.algorithms.feddyn import FedDyn
from manent.algorithms.fednova import FedNova
from manent.algorithms.fedprox import FedProx
from manent.algorithms.fedyogi import FedYogi
from manent.algorithms.gradient import Evaluation
from manent.algorithms.scaffold import SCAFFOLD

__all__ = [
    "SCAFFOLD",
    "Evaluation",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
]
