"""Accuracy against epsilon, beside the same training without privacy: what differential privacy costs in accuracy.

Hospitals: heart disease at four centres. Each *example* (a patient's row) is protected, by DP-SGD in local training. The row of
FLamby's own table (du Terrail et al. 2022) stands beside it: DP-SGD at record level, delta 1e-3, mean accuracy over centres. Its
recipe differs (15 rounds of 100 updates; here 10 of 5), so this is no race. Digits: MNIST (Fashion-MNIST where MNIST is not on
this machine), dealt to 1,000 and to 6,000 label-skewed clients. Each whole *client* is protected, by clipping, and by noise on
the total of Poisson cohorts.

The gap that the digits still have at large epsilon comes from the clipping, not the noise: with Clip alone accuracy is the same.

Learning rates, clip norms and rounds are the same for every epsilon. They were chosen once, by a few runs on the same data; no
epsilon counts that choice. Accuracies are on test rows; error bars are one standard deviation over seeds. Every epsilon is that
of a deployed study: a simulation protects nobody.

    python benchmarks/privacy_utility.py [--json] [--quick] [--seeds 5] [--redraw]

Writes benchmarks/results/privacy_utility.json and .png; with --quick, privacy_utility_quick.*, from fewer epsilons and seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import Any

import numpy as np
from common import RESULTS, keep, show

import manent as mn

FLAMBY = {None: 0.712, 0.1: 0.629, 1.0: 0.702, 5.0: 0.700, 50.0: 0.700}
HOSPITALS = (0.05, 0.1, 0.3, 1.0, 5.0, 50.0, None)
DIGITS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, None)
QUICK = (0.1, 1.0, 8.0, None)
SIZES = (1000, 6000)
LR, CLIP = 0.3, 0.5  # of digits
Epsilon = float | None


class Silent:
    """A watcher that shows nothing."""

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """Do nothing."""


def hospitals(epsilon: Epsilon) -> mn.Study:
    """A budget for each example; None trains the same without privacy."""
    privacy = None if epsilon is None else mn.DPSGD(clip_norm=1.0, sampling_probability=0.1)
    local = mn.LocalSGD(lr=0.2, steps=5, batch_size=12, privacy=privacy)
    budget = None if epsilon is None else mn.Budget(epsilon, 1e-3, "example", "add_or_remove")
    return mn.Study(mn.FedAvg(mn.LogisticModel(13), local), rounds=10, budget=budget)


def digits(epsilon: Epsilon, clients: int) -> mn.Study:
    """A budget for each client; None trains the same without clipping and noise."""
    local = mn.LocalSGD(lr=LR, epochs=1, batch_size=10)
    algorithm = mn.FedAvg(mn.SoftmaxModel(784, 10), local, weighting="equal")
    cohort = mn.Cohort(sampling_probability=100 / clients if clients <= 1000 else 300 / clients)
    if epsilon is None:
        return mn.Study(algorithm, rounds=25, cohort=cohort)
    budget = mn.Budget(epsilon, 1e-5, "client", "add_or_remove")
    return mn.Study(algorithm, rounds=25, cohort=cohort, layers=[mn.Clip(CLIP), mn.CentralNoise()], budget=budget)


def pictures(clients: int, seed: int) -> mn.Federation:
    """MNIST, else Fashion-MNIST. Nothing is downloaded."""
    options: dict[str, Any] = {"clients": clients, "split": mn.data.Dirichlet(0.5), "flat": True, "seed": seed, "download": False}
    try:
        return mn.data.mnist(**options)
    except mn.InvalidInput:
        return mn.data.fashion_mnist(**options)


def trained(study: mn.Study, data: mn.Federation, seed: int) -> mn.Run:
    return mn.simulate(study, data, seed=seed, workers=0, evaluate_every=study.rounds, watcher=Silent())


def row(curve: str, epsilon: Epsilon, run: mn.Run, values: list[float]) -> dict[str, Any]:
    """A point of a curve: its accuracies by seed, and what its statement says."""
    found = run.statement.protection
    public = next(observer for observer in run.statement.observers if observer.name == "public")
    print(f"{curve}, epsilon {epsilon or 'none'}: {np.mean(values):.3f}", flush=True)
    return {
        "curve": curve,
        "epsilon": epsilon,
        "stated_epsilon": public.epsilon,
        "delta": public.delta,
        "unit": found and found.privacy_unit,
        "noise_multiplier": found and found.noise_multiplier,
        "accuracy": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": values,
    }


def on_hospitals(epsilons: tuple[Epsilon, ...], seeds: range) -> list[dict[str, Any]]:
    """Mean accuracy over the centres' own test rows."""
    data = mn.data.heart_disease()
    rows = []
    for epsilon in epsilons:
        values = []
        for seed in seeds:
            run = trained(hospitals(epsilon), data, seed)
            tests = [client.test for client in data if client.test is not None]
            values.append(float(np.mean([run.model.evaluate(test)["accuracy"] for test in tests])))
        rows.append(row("hospitals", epsilon, run, values))
    return rows


def on_digits(epsilons: tuple[Epsilon, ...], seeds: range, clients: int) -> tuple[list[dict[str, Any]], str]:
    """Accuracy on the central test set; seeds also deal the images anew."""
    data = {seed: pictures(clients, seed) for seed in seeds}
    name = data[seeds[0]].name
    rows = []
    for epsilon in epsilons:
        runs = [trained(digits(epsilon, clients), data[seed], seed) for seed in seeds]
        values = [float(run.probe[-1]["test"]["accuracy"]) for run in runs]
        rows.append(row(f"{name}, {clients:,} clients", epsilon, runs[0], values))
    return rows, name


def base_rate() -> float:
    """Mean accuracy over the centres of giving every test patient the commoner diagnosis of its centre."""
    shares = [float(np.mean(client.test.y)) for client in mn.data.heart_disease() if client.test is not None]
    return float(np.mean([max(share, 1 - share) for share in shares]))


def measured(quick: bool, seeds: int) -> dict[str, Any]:
    """Every figure, as JSON values."""
    began = time.monotonic()
    many = range(42, 42 + (3 if quick else 2 * seeds))
    few = range(1 if quick else min(seeds, 3))
    rows = on_hospitals(QUICK if quick else HOSPITALS, many)
    for clients in SIZES[:1] if quick else SIZES:
        more, name = on_digits(QUICK[1:] if quick else DIGITS, few, clients)
        rows += more
    return {
        "rows": rows,
        "pictures": name,
        "base_rate": base_rate(),
        "flamby": [{"epsilon": epsilon, "accuracy": accuracy} for epsilon, accuracy in FLAMBY.items()],
        "quick": quick,
        "seconds": round(time.monotonic() - began, 1),
    }


def draw(values: dict[str, Any], name: str) -> None:
    """Two panels: hospitals by example, pictures by client."""
    from matplotlib.figure import Figure

    from manent.engines.plots import INK, PALETTE, QUIET, save

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = list(dict.fromkeys(row["curve"] for row in values["rows"]))
    for index, curve in enumerate(curves):
        axes = left if curve == "hospitals" else right
        label = "manent" if curve == "hospitals" else curve.split(", ")[1]
        _curve(axes, [row for row in values["rows"] if row["curve"] == curve], PALETTE[index], label)
    published = [row for row in values["flamby"] if row["epsilon"] is not None]
    left.plot([r["epsilon"] for r in published], [r["accuracy"] for r in published], "s:", color=QUIET, label="FLamby, published")
    left.axhline(FLAMBY[None], color=QUIET, lw=1, ls="--")
    left.axhline(values["base_rate"], color=INK, lw=1, ls=":", label="commoner diagnosis of each centre")
    left.set_title("Heart disease, four hospitals: each example protected, delta 1e-3", loc="left", fontsize=10, color=INK)
    right.set_title(f"{values['pictures']}, softmax: each client protected, delta 1e-5", loc="left", fontsize=10, color=INK)
    left.set_ylabel("accuracy, mean over centres")
    right.set_ylabel("accuracy on the test set")
    for axes in (left, right):
        axes.set_xscale("log")
        ticks = sorted(
            {row["epsilon"] for row in values["rows"] if row["epsilon"] and (row["curve"] == "hospitals") == (axes is left)}
        )
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("epsilon (smaller is more private)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.suptitle("Accuracy against epsilon; dashed: the same training without privacy; bars: 1 sd over seeds", fontsize=11)
    save(figure, RESULTS / f"{name}.png")


def _curve(axes: Any, rows: list[dict[str, Any]], colour: str, label: str) -> None:
    private = [row for row in rows if row["epsilon"] is not None]
    places = [row["epsilon"] for row in private], [row["accuracy"] for row in private]
    axes.errorbar(*places, [row["sd"] or 0 for row in private], fmt="o-", color=colour, capsize=3, label=label)
    for row in rows:
        if row["epsilon"] is None:
            axes.axhline(row["accuracy"], color=colour, lw=1.2, ls="--")
            low, high = (row["accuracy"] + sign * (row["sd"] or 0) for sign in (-1, 1))
            axes.axhspan(low, high, color=colour, alpha=0.1, lw=0)


def tell(values: dict[str, Any]) -> None:
    """The table."""
    published = {row["epsilon"]: row["accuracy"] for row in values["flamby"]}
    bare = {row["curve"]: row["accuracy"] for row in values["rows"] if row["epsilon"] is None}
    rows = []
    for found in values["rows"]:
        epsilon, z = found["epsilon"], found["noise_multiplier"]
        beside = published.get(epsilon, "") if found["curve"] == "hospitals" else ""
        cost = found["accuracy"] - bare[found["curve"]]
        told = (
            "none" if epsilon is None else f"{epsilon:g}",
            "" if z is None else float(z),
            found["accuracy"],
            found["sd"] or "",
        )
        rows.append((found["curve"], *told, cost, len(found["seeds"]), beside))
    columns = ("data", "epsilon", "noise multiplier", "accuracy", "sd", "against none", "seeds", "FLamby")
    show(f"Accuracy against epsilon ({values['seconds']:.0f} s)", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer epsilons and seeds, and one federation of digits")
    parser.add_argument("--seeds", type=int, default=5, help="of digits at most 3, of hospitals twice as many")
    parser.add_argument("--redraw", action="store_true", help="run nothing: table and plot from the results that are there")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    name = "privacy_utility_quick" if options.quick else "privacy_utility"
    if options.redraw:
        values = json.loads((RESULTS / f"{name}.json").read_text())
    else:
        values = measured(options.quick, options.seeds)
    tell(values)
    draw(values, name)
    if not options.redraw:
        keep(name, values, options.json)


if __name__ == "__main__":
    main()
