"""The ways of learning that the demonstration compares, and their recipes."""

from __future__ import annotations

from collections.abc import Mapping

from manent.algorithms import FedAdam, FedAvg
from manent.algorithms.gradient import GradientAlgorithm
from manent.core.training import LocalSGD
from manent.models.numpy import LogisticModel

FIRST_SEED, ROUNDS, FEATURES = 42, 15, 13
ALONE, POOLED, MAIN = "alone", "pooled", "FedAdam"
ONE_SCALE = f"{POOLED}, one scale"
"""All data in one place, on features that were scaled together."""

MODEL = LogisticModel(FEATURES, initial="uniform")
# The published recipe of Fed-Heart-Disease (du Terrail et al. 2022): batches of 4; 50 epochs, or 15 rounds of 100 steps.
CENTRAL = FedAvg(MODEL, LocalSGD(lr=0.001, epochs=50, batch_size=4, optimizer="adam"))
FEDERATED: Mapping[str, GradientAlgorithm] = {
    "FedAvg": FedAvg(MODEL, LocalSGD(lr=0.001, steps=100, batch_size=4)),
    "FedAdam": FedAdam(MODEL, LocalSGD(lr=0.01, steps=100, batch_size=4), server_lr=0.01, beta2=0.999, tau=1e-8),
}
