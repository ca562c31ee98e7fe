"""Time of a DP-SGD step, with exact integer noise, over a step of plain SGD; in one thread.

    python benchmarks/dpsgd.py [--json] [--rounds 15]

A step takes a batch of 256 images of 28 x 28: one pass, the clipped sum, the noise, the new weights. Times are processor time.
All ways take turns; a ratio is taken within each turn, and the median over the turns is given. "Plain SGD" is a step of
torch.optim.SGD, with which other libraries compare too; the ratio to manent's own plain step, which skips autograd, stands beside
it. Opacus is timed where it is installed. The last line with --json is one object: `cnn_ratio` and `mlp_ratio` over torch,
`cnn_ratio_own` and `mlp_ratio_own` over manent's own plain step, the same with `_without_noise` at the end, and the milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from common import keep, show
from torch import nn

from manent import DPSGD, Examples, LocalSGD, TorchModel
from manent.core.training import Batch, LocalTraining
from manent.crypto import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws

BATCH, STEPS = 256, 3
TARGETS = {"cnn": 2.0, "mlp": 5.0}
Step = Callable[[], object]


def networks() -> dict[str, nn.Sequential]:
    """The convolutional network of 26,010 parameters on which DP-SGD on MNIST is usually measured; a perceptron of 269,322."""
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    hidden = nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    return {"cnn": cnn, "mlp": nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))}


class WithoutNoise:
    """Draws without noise: the difference is the time that noise takes."""

    secure = False

    def rows(self, probability: float, examples: int) -> Any:
        return np.arange(examples)

    def noisy(self, total: Any, clip_norm: float, noise_multiplier: float) -> Any:
        return total


def manent_steps(network: nn.Sequential, data: Examples) -> Iterator[tuple[str, Step]]:
    model = TorchModel(network, "cross_entropy")
    start = model.init(np.random.default_rng(0))
    plain = LocalSGD(lr=0.1, steps=STEPS)
    private = LocalSGD(lr=0.1, steps=STEPS, batch_size=BATCH, privacy=DPSGD(1.0, 1.0, sampling_probability=0.1))
    batches: list[Batch] = [slice(None)] * STEPS
    for name, local, draws in (
        ("manent plain", plain, None),
        ("manent DP-SGD", private, ExactDraws(SystemRandom())),
        ("manent DP-SGD without noise", private, WithoutNoise()),
    ):
        yield name, partial(model.train, [LocalTraining(start, batches, local, 0.1, draws=draws)], [data])


def torch_steps(network: nn.Sequential, data: Examples) -> Iterator[tuple[str, Step]]:
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)

    def steps(module: nn.Module, optimizer: Any, loss: Any) -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.autograd.backward(loss(module(x), y))
            optimizer.step()

    module = (
        TorchModel(network, "cross_entropy").module(TorchModel(network, "cross_entropy").init(np.random.default_rng(0))).train()
    )
    sgd = torch.optim.SGD(module.parameters(), 0.1)
    yield "torch plain", lambda: steps(module, sgd, nn.functional.cross_entropy)
    yield from opacus_steps(module, x, y)


def opacus_steps(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[str, Step]]:
    """Opacus in its three modes. Its noise is torch's normal distribution in floating point."""
    try:
        from opacus import GradSampleModule, __version__
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
    except ImportError:
        return
    import copy

    def hooks(mode: str) -> Step:
        wrapped: Any = GradSampleModule(copy.deepcopy(module))
        if mode == "ew":
            from opacus.grad_sample import GradSampleModuleExpandedWeights

            wrapped = GradSampleModuleExpandedWeights(copy.deepcopy(module))
        inner = torch.optim.SGD(wrapped.parameters(), 0.1)
        optimizer = DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH)

        def run() -> None:
            for _ in range(STEPS):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(wrapped(x), y))
                optimizer.step()

        return run

    def ghost() -> Step:
        wrapped = GradSampleModuleFastGradientClipping(copy.deepcopy(module), max_grad_norm=1.0, use_ghost_clipping=True)
        inner = torch.optim.SGD(wrapped.parameters(), 0.1)
        optimizer = DPOptimizerFastGradientClipping(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH)
        loss = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss())

        def run() -> None:
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss(wrapped(x), y).backward()
                optimizer.step()

        return run

    yield f"Opacus {__version__} hooks", hooks("hooks")
    yield f"Opacus {__version__} expanded weights", hooks("ew")
    yield f"Opacus {__version__} ghost", ghost()


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one step, of every way in every round."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - start) / STEPS)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return median(a / b for a, b in zip(times[name], times[base], strict=True))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true")
    options.add_argument("--rounds", type=int, default=15)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    data = Examples(rng.standard_normal((BATCH, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, BATCH))
    values: dict[str, Any] = {
        "batch": BATCH,
        "rounds": chosen.rounds,
        "torch": torch.__version__,
        "milliseconds": {},
        "over_torch": {},
    }
    for kind, network in networks().items():
        steps = {**dict(torch_steps(network, data)), **dict(manent_steps(network, data))}
        times = measure(steps, chosen.rounds)
        rows = [(n, median(t), ratio(times, n, "torch plain"), ratio(times, n, "manent plain")) for n, t in times.items()]
        size = sum(p.numel() for p in network.parameters())
        show(f"{kind}: {size:,} parameters, batch of {BATCH}", ("way", "ms a step", "over torch", "over manent's plain"), rows)
        values["milliseconds"][kind] = {name: round(ms, 3) for name, ms, _, _ in rows}
        values["over_torch"][kind] = {name: round(over, 3) for name, _, over, _ in rows}
        for ending, base in (("", "torch plain"), ("_own", "manent plain")):
            values[f"{kind}_ratio{ending}"] = round(ratio(times, "manent DP-SGD", base), 3)
            values[f"{kind}_ratio{ending}_without_noise"] = round(ratio(times, "manent DP-SGD without noise", base), 3)
        print(f"{kind}_ratio {values[f'{kind}_ratio']} (wanted: at most {TARGETS[kind]})")
    keep("dpsgd", values, chosen.json)


if __name__ == "__main__":
    main()
