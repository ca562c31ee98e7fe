"""Training with noise and masks: each client clips, adds its share of the noise and masks its vector; one in ten drops out.

    python benchmarks/secagg_training.py [--data mnist|fashion_mnist] [--clients N] [--rounds N] [--json]

The protocol is the real one: keys, shares, masks, consents. Beside it run the same study in the clear, with the same drop-outs
and no noise, and the same study with modelled sums. Kept: benchmarks/results/secagg_training.json and .txt (the statement).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import manent as mn

RESULTS = Path(__file__).parent / "results"
DROPS = mn.Conditions(drop_before_training=0.03, drop_before_upload=0.04, drop_after_upload=0.03)


def study(rounds: int) -> mn.Study:
    """Softmax regression, every client in every round."""
    return mn.Study(
        name="secure training",
        algorithm=mn.FedAvg(mn.SoftmaxModel(784, 10), mn.LocalSGD(lr=0.5, epochs=1, batch_size=20), weighting="equal"),
        rounds=rounds,
        layers=[mn.Clip(1.0), mn.DistributedNoise()],
        summation=mn.SecAgg(dropped=0.15),
        budget=mn.Budget(epsilon=8.0, delta=1e-4, privacy_unit="client", neighboring_relation="zero_out"),
    )


def measured(declared: mn.Study, data: mn.Federation, seed: int) -> tuple[mn.Run, dict[str, float]]:
    run = mn.simulate(declared, data, seed=seed, conditions=DROPS, evaluate_every=declared.rounds)
    abandoned = sum("abandoned" in row for row in run.history)
    accuracy = run.probe[-1]["test"]["accuracy"]
    return run, {
        "accuracy": round(accuracy, 4),
        "abandoned": abandoned,
        "seconds_per_round": round(run.seconds / declared.rounds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("mnist", "fashion_mnist"), default="fashion_mnist")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    data = getattr(mn.data, given.data)(clients=given.clients, flat=True)
    real, modelled_sum = study(given.rounds), mn.SecAgg(dropped=0.15, modelled=True)
    run, found = measured(real, data, seed=1)
    _, modelled = measured(replace(real, summation=modelled_sum), data, seed=1)
    _, clear = measured(replace(real, layers=(), summation=None, budget=None), data, seed=1)
    server = next(observer for observer in run.statement.observers if observer.name == "server")
    assert server.epsilon is not None
    out = {
        "data": given.data,
        "clients": given.clients,
        "rounds": given.rounds,
        "epsilon": round(server.epsilon, 4),
        "secagg": found,
        "modelled": modelled,
        "clear": clear,
    }
    RESULTS.joinpath("secagg_training.json").write_text(json.dumps(out, indent=2) + "\n")
    RESULTS.joinpath("secagg_training.txt").write_text(f"{run.statement}\n")
    print(run.statement)
    print(
        f"\nWith both guards: accuracy {found['accuracy']:.3f} (modelled {modelled['accuracy']:.3f}, in the clear "
        f"{clear['accuracy']:.3f}); {found['seconds_per_round']} s a round (modelled {modelled['seconds_per_round']})."
    )
    if given.json:
        print(json.dumps(out))


if __name__ == "__main__":
    main()
