"""Digests of what manent computes: every algorithm, layer and summation in a simulation, and runs over a network.

    python benchmarks/digests.py --out before.json            # before a change that only moves code
    python benchmarks/digests.py --against before.json        # after it, compared row by row

Code that computes the same bits gives the same rows. Here, noise and rounding
are drawn from generators seeded by the vectors, not from the operating system's randomness, so that they repeat in every process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import keep

import manent as mn
from manent.core.protocols import Assignment, ClientContext
from manent.core.vectors import Array
from manent.crypto import InsecureTestRNG
from manent.crypto.samplers.gradients import ExactDraws
from manent.privacy.stack import Stack

WORKERS = (1, 2, 4)


def repeatable_noise() -> Any:
    """Make both halves of every stack draw from a generator that the vectors seed."""
    old = {name: getattr(Stack, name) for name in ("client", "remember", "server")}

    def patched(name: str) -> Any:
        def own(self: Stack, vectors: Array, *rest: Any) -> Any:
            return old[name](self, vectors, *rest[:-1], seeded(name.encode(), vectors.tobytes()))

        return own

    return mock.patch.multiple(Stack, **{name: patched(name) for name in old})


def repeatable_draws(study: mn.Study) -> Any:
    """Make private training draw from a generator that the client's name and the round seed."""
    kind: Any = type(study.algorithm)
    answer = kind.answer

    def own(self: Any, assignment: Assignment, clients: Any, memory: Any, contexts: Sequence[ClientContext]) -> Any:
        given = [replace(c, draws=ExactDraws(seeded(f"{c.client}/{c.round}".encode()))) for c in contexts]
        return answer(self, assignment, clients, memory, given)

    return mock.patch.object(kind, "answer", own)


def seeded(*parts: bytes) -> InsecureTestRNG:
    return InsecureTestRNG(int.from_bytes(hashlib.sha256(b"|".join(parts)).digest()[:6], "little"))


def people(shape: tuple[int, ...] = (4,)) -> mn.Federation:
    """Seven clients with unequal data, and a column."""
    rng, clients = np.random.default_rng(5), []
    weights = rng.normal(size=(int(np.prod(shape)), 3))
    for number, rows in enumerate((6, 9, 4, 11, 5, 8, 3)):
        parts = []
        for count in (rows, 4):
            x = rng.normal(size=(count, *shape)).astype(np.float32)
            y = (x.reshape(count, -1) @ weights).argmax(1)
            parts.append(mn.Examples(x, y, {"age": np.arange(count, dtype=np.float64) + number}))
        clients.append(mn.Client(f"c{number}", *parts))
    schema = mn.Schema(shape=shape, classes=3, columns=(mn.Column("age", "years", 0, 20),))
    return mn.Federation(clients=tuple(clients), schema=schema, name="people")


def algorithms() -> dict[str, Any]:
    local, model = mn.LocalSGD(lr=0.05, epochs=1, batch_size=3), mn.SoftmaxModel(4, 3)
    full = mn.LocalSGD(
        lr=0.1, schedule=mn.CosineDecay(5, 0.1), steps=(2, 5), batch_size=3, momentum=0.5, weight_decay=0.01, max_grad_norm=1.0
    )
    private = mn.LocalSGD(
        lr=0.05, steps=3, batch_size=3, privacy=mn.DPSGD(clip_norm=1.0, noise_multiplier=1.0, sampling_probability=0.4)
    )
    return {
        "FedAvg": mn.FedAvg(model, local),
        "FedAvg, every option": mn.FedAvg(model, full),
        "FedAvg, equal weights": mn.FedAvg(model, local, weighting="equal"),
        "FedAvg with evaluation": mn.FedAvg(model, local, evaluation=mn.Evaluation(2)),
        "FedAvg, DPSGD": mn.FedAvg(model, private, weighting="equal"),
        "FedSGD": mn.FedSGD(model, 0.1),
        "FedProx": mn.FedProx(model, local, mu=0.1),
        "SCAFFOLD": mn.SCAFFOLD(model, local),
        "SCAFFOLD, control by gradient": mn.SCAFFOLD(model, local, control="gradient"),
        "FedNova": mn.FedNova(model, local),
        "FedDyn": mn.FedDyn(model, local, alpha=0.1),
        "FedAvgM": mn.FedAvgM(model, local, server_lr=0.3),
        "FedAdagrad": mn.FedAdagrad(model, local),
        "FedAdam": mn.FedAdam(model, local),
        "FedYogi": mn.FedYogi(model, local),
        "Mean": mn.Mean("age"),
        "Histogram": mn.Histogram("age", bins=4),
    }


def layers() -> dict[str, list[Any]]:
    return {
        "Clip": [mn.Clip(0.2)],
        "Clip, order 1": [mn.Clip(0.2, order=1)],
        "AdaptiveClip": [mn.AdaptiveClip()],
        "Discretize": [mn.Clip(0.2), mn.Discretize()],
        "Discretize, 20 bits, rotated": [mn.Clip(0.2), mn.Discretize(bits=20, rotation=True)],
        "FixedPoint": [mn.FixedPoint()],
        "CentralNoise": [mn.Clip(0.2), mn.CentralNoise(0.5)],
        "CentralNoise, laplace": [mn.Clip(0.2, order=1), mn.CentralNoise(0.5, "laplace")],
        "LocalNoise": [mn.AdaptiveClip(), mn.LocalNoise(0.5)],
        "DistributedNoise": [mn.Clip(0.2), mn.DistributedNoise(noise_multiplier=0.5)],
        "DistributedNoise, skellam": [mn.Clip(0.2), mn.DistributedNoise("skellam", 0.5)],
        "CorrelatedNoise": [mn.Clip(0.2), mn.CorrelatedNoise(0.5)],
        "CorrelatedNoise, one buffer": [mn.Clip(0.2), mn.CorrelatedNoise(0.5, buffers=1)],
        "CorrelatedNoise, rotated, two bands": [mn.Clip(0.2), mn.Discretize(rotation=True), mn.CorrelatedNoise(0.5, bands=2)],
        "rotated, adaptive, distributed": [
            mn.AdaptiveClip(),
            mn.Discretize(bits=24, rotation=True),
            mn.DistributedNoise(noise_multiplier=0.5),
        ],
    }


def models() -> dict[str, Any]:
    import torch

    def perceptron() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def normed() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3))

    def odd() -> Any:
        class Odd(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

            def forward(self, x: Any) -> Any:
                return self.b(torch.tanh(self.a(x)) * torch.sigmoid(self.a(x)))

        return Odd()

    from sklearn.neural_network import MLPClassifier

    from manent.models.jax import JaxModel
    from manent.models.sklearn import SklearnModel
    from manent.models.torch import TorchModel

    def flax_free() -> Any:
        import jax.numpy as jnp

        def init(key: Any) -> Any:
            import jax

            return {"w": jax.random.normal(key, (4, 3)) * 0.1, "b": jnp.zeros(3)}

        return JaxModel(init, lambda params, x: x @ params["w"] + params["b"], loss="cross_entropy", classes=3)

    return {
        "torch, plain stack": TorchModel(perceptron(), loss="cross_entropy", classes=3),
        "torch, BatchNorm": TorchModel(normed(), loss="cross_entropy", classes=3),
        "torch, any module": TorchModel(odd(), loss="cross_entropy", classes=3),
        "jax": flax_free(),
        "sklearn": SklearnModel(MLPClassifier((5,), max_iter=1, random_state=0), features=4, classes=3, examples=46),
    }


def digest(run: mn.Run) -> str:
    """Of the final state, the history and the probe, but for seconds; and of every epsilon."""
    found = hashlib.sha256()
    for name, array in sorted(run.state.items()):
        found.update(f"{name} {np.asarray(array).dtype} {np.asarray(array).shape}".encode() + np.asarray(array).tobytes())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in (*run.history, *run.probe)]
    found.update(json.dumps(rows, sort_keys=True).encode())
    said = [(o.name, o.epsilon, o.delta) for o in run.statement.observers]
    found.update(json.dumps(said).encode())
    return found.hexdigest()


def studies() -> Iterator[tuple[str, mn.Study, bool]]:
    """Name, study, and whether the cohort may lose clients."""
    fedavg = mn.FedAvg(mn.SoftmaxModel(4, 3), mn.LocalSGD(lr=0.05, epochs=1, batch_size=3), weighting="equal")
    for name, algorithm in algorithms().items():
        rounds = 3 if hasattr(algorithm, "model") else 1
        yield f"algorithm: {name}", mn.Study(algorithm, rounds), True
        if "DPSGD" not in name:
            yield (
                f"algorithm: {name}; SecAgg",
                mn.Study(algorithm, rounds, summation=mn.SecAgg(minimum_cohort=3, dropped=0.3)),
                False,
            )
    for name, stack in layers().items():
        cohort = mn.Cohort(min_separation=3) if "Correlated" in name else mn.Cohort()
        yield f"layer: {name}", mn.Study(fedavg, 4, cohort, layers=stack), False
        if "LocalNoise" not in name and "Correlated" not in name:
            secure = mn.SecAgg(minimum_cohort=3, dropped=0.3)
            yield f"layer: {name}; SecAgg", mn.Study(fedavg, 3, layers=stack, summation=secure), False
    clip: list[Any] = [mn.Clip(0.5), mn.CentralNoise()]
    relations: tuple[tuple[Any, mn.Cohort], ...] = (
        ("add_or_remove", mn.Cohort(sampling_probability=0.5)),
        ("replace_one", mn.Cohort(size=4)),
        ("zero_out", mn.Cohort()),
    )
    for relation, cohort in relations:
        budget = mn.Budget(epsilon=4.0, delta=1e-2, privacy_unit="client", neighboring_relation=relation)
        yield f"budget: {relation}", mn.Study(fedavg, 3, cohort=cohort, layers=clip, budget=budget), False
    for name, model in models().items():
        local = mn.LocalSGD(lr=0.05, epochs=2, batch_size=3, momentum=0.3 if "any" in name else 0.0)
        if name == "sklearn":
            local = mn.LocalSGD(lr=0.05, epochs=2, batch_size=3)
        if "BatchNorm" in name:
            local = mn.LocalSGD(lr=0.05, epochs=2)
        yield f"model: {name}", mn.Study(mn.FedAvg(model, local), 2), True


def simulated(only: str | None) -> dict[str, str]:
    data, rows = people(), {}
    drops = mn.Conditions(drop_before_upload=0.2, drop_after_upload=0.1, stragglers=0.2)
    for name, study, lossy in studies():
        if only is not None and only not in name:
            continue
        for workers in WORKERS:
            try:
                with repeatable_noise(), repeatable_draws(study):
                    run = mn.simulate(study, data, seed=3, workers=workers, watcher=(), conditions=drops if lossy else None)
                rows[f"{name} | {workers}"] = digest(run)
            except mn.ManentError as error:
                rows[f"{name} | {workers}"] = f"{type(error).__name__}: {error}"
        print(name, rows[f"{name} | 1"][:70], flush=True)
    return rows


def networked(only: str | None) -> dict[str, str]:
    """The storm's federation on its virtual clock; and a server and four hospitals as processes."""
    from manent.storm.federation import Federation, Weather

    rows: dict[str, str] = {}
    stormed: dict[str, Any] = {"Plain": mn.Plain(), "SecAgg": mn.SecAgg(minimum_cohort=3, dropped=0.4)}
    for name, summation in stormed.items():
        key = f"network: storm, {name}"
        if only is not None and only not in key:
            continue
        with tempfile.TemporaryDirectory() as folder, Federation(Path(folder), 5, Weather(), seed=3) as federation:
            hash = federation.submit(summation, 3, mn.Cohort(minimum=3))
            federation.run(5_000.0)
            rows[key] = _stored(federation.store, hash)
    texts = {("Plain", "SCAFFOLD"): "mn.Plain()", ("SecAgg", "FedAvg"): "mn.SecAgg(minimum_cohort=3, dropped=0.2)"}
    for (name, algorithm), text in texts.items():
        key = f"network: processes, {name}, {algorithm}"
        if only is None or only in key:
            rows[key] = _processes(text, algorithm)
    return rows


def _processes(summation: str, algorithm: str) -> str:
    """A server and four hospitals as processes, over TLS."""
    from tests.network.processes import Federation

    with tempfile.TemporaryDirectory() as folder, Federation(Path(folder), summation, 3, algorithm) as federation:
        federation.serve()
        for index in range(federation.sites):
            federation.join(index)
        model = federation.result(120)["model"]
        history = [json.loads(line) for line in (federation.over[0] / "history.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return hashlib.sha256(model.tobytes() + json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _stored(store: Any, hash: str) -> str:
    from manent.network.server import documents

    with store.snapshot() as view:
        history = [json.loads(row) for row in view.rows(documents.history_log(hash))]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the rows here")
    parser.add_argument("--against", type=Path, help="compare with rows written before")
    parser.add_argument("--only", metavar="TEXT", help="rows whose name contains it")
    parser.add_argument("--keep", action="store_true", help="keep the result of --against in benchmarks/results/")
    options = parser.parse_args()
    rows = {**simulated(options.only), **networked(options.only)}
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    if options.against:
        before: Mapping[str, str] = json.loads(options.against.read_text())
        names = [n for n in sorted({*before, *rows}) if options.only is None or options.only in n]
        differ = [name for name in names if before.get(name) != rows.get(name)]
        print(f"{len(names)} rows, {len(differ)} differ")
        for name in differ:
            print("  ", name, before.get(name), rows.get(name))
        found = {"rows": len(names), "differ": differ, "against": options.against.name, "digests": rows}
        keep("digests" if options.keep else None, found, print_json=False)
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
