"""FLamby's Fed-Heart-Disease table, rebuilt: accuracy on the pooled test rows and on each centre's own.

du Terrail et al. 2022, "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare Settings", its
results for Fed-Heart-Disease (5 seeds). Recipe: logistic regression, batch 4; pooled and local training with Adam 0.001 for 50
epochs; federated 15 rounds of 100 updates with SGD, weights by size. The pooled test is all 254 test rows, normalised with the
statistics of all training rows; a centre's own test rows are normalised with that centre's.

    python benchmarks/fed_heart.py [--json] [--seeds 5]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import keep, show

import manent as mn

PUBLISHED = {"pooled": 0.795, "local_0": 0.784, "fedavg": 0.748, "scaffold": 0.748, "fedadam": 0.779, "fedyogi": 0.779}
PUBLISHED_CENTRES = {
    "pooled": (0.783, 0.764, 0.750, 0.644),
    "local_0": (0.746, 0.760, 0.725, 0.658),
    "fedavg": (0.731, 0.719, 0.650, 0.640),
    "scaffold": (0.727, 0.719, 0.650, 0.640),
    "fedadam": (0.752, 0.746, 0.738, 0.667),
    "fedyogi": (0.760, 0.753, 0.738, 0.676),
}


def first_weights(seed: int) -> mn.TorchModel:
    """The published seeds fix the first weights, which matter: 1,500 steps at 0.001 do not forget them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Linear(13, 1), torch.nn.Flatten(0))
    return mn.TorchModel(network, loss="binary_cross_entropy", initial="given")


def studies(model: mn.TorchModel) -> dict[str, tuple[mn.Study, str]]:
    """Each row of the table: a study, and on whose training rows it runs."""

    def local(lr: float) -> mn.LocalSGD:
        return mn.LocalSGD(lr=lr, steps=100, batch_size=4)

    alone = mn.FedAvg(model, mn.LocalSGD(lr=0.001, epochs=50, batch_size=4, optimizer="adam"))
    server: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "tau": 1e-8, "server_lr": 0.01}
    federated = {
        "fedavg": mn.FedAvg(model, local(0.001)),
        "scaffold": mn.SCAFFOLD(model, local(0.001), weighting="examples"),
        "fedadam": mn.FedAdam(model, local(0.01), **server),
        "fedyogi": mn.FedYogi(model, local(0.003162), **server),
    }
    rows = {"pooled": (mn.Study(alone), "pooled"), "local_0": (mn.Study(alone), "first centre")}
    return rows | {name: (mn.Study(algorithm, rounds=15), "all centres") for name, algorithm in federated.items()}


def run(seeds: range) -> dict[str, Any]:
    """Mean accuracies over seeds, by row of the table."""
    own, basis = mn.data.heart_disease(), mn.data.heart_disease(normalise="pooled")
    test = basis.pooled("test")
    populations = {
        "pooled": mn.Federation((mn.Client("pooled", basis.pooled("train")),), basis.schema, "pooled"),
        "first centre": own.subset(own.names[:1]),
        "all centres": own,
    }
    found: dict[str, Any] = {}
    pooled: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    centres: dict[str, list[list[float]]] = {name: [] for name in PUBLISHED}
    for seed in seeds:
        for name, (study, population) in studies(first_weights(seed)).items():
            data = populations[population]
            model = mn.simulate(study, replace(data, test=None), seed=seed, workers=0, evaluate_every=study.rounds).model
            pooled[name].append(model.evaluate(test)["accuracy"])
            tests = [client.test for client in own.clients if client.test is not None]
            centres[name].append([model.evaluate(test)["accuracy"] for test in tests])
    for name in PUBLISHED:
        found[name] = float(np.mean(pooled[name]))
        found[f"{name}_sd"] = float(np.std(pooled[name]))
        found[f"{name}_centres"] = [float(value) for value in np.mean(centres[name], axis=0)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = run(range(42, 42 + options.seeds))
    rows = []
    for name, published in PUBLISHED.items():
        ours = found[name]
        centres = " ".join(f"{a:.3f}/{b:.3f}" for a, b in zip(found[f"{name}_centres"], PUBLISHED_CENTRES[name], strict=True))
        rows.append((name, ours, found[f"{name}_sd"], published, ours - published, centres))
    columns = ("strategy", "pooled test", "sd", "FLamby", "difference", "centres, ours/FLamby")
    show(f"Fed-Heart-Disease, accuracy, {options.seeds} seeds", columns, rows)
    keep("fed_heart", found, options.json)


if __name__ == "__main__":
    main()
