"""Twenty clients with differing data train a small convolutional network, while most of them are slow and some drop out.

    manent run examples/digits_torch.py
    manent run examples/digits_torch.py --set conditions.stragglers=0.5 --set algorithm.mu=0.1
    python examples/digits_torch.py             compares counting slow clients with dropping them; draws runs/digits.png

Needs: pip install 'manent[torch,sklearn,plots]'
"""

from dataclasses import replace
from pathlib import Path

from torch import nn

import manent as mn
from manent.engines.plots import plot_runs

# 1,797 digits of 8 x 8 pixels. Dirichlet(0.3) gives each client many of a few digits and few of the others.
data = mn.data.digits(clients=20, split=mn.data.Dirichlet(0.3), test_fraction=0.2)

network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
model = mn.TorchModel(network, loss="cross_entropy")
local = mn.LocalSGD(lr=0.1, epochs=3, batch_size=16)

study = mn.Study(
    name="digits",
    # FedProx uses what slow clients managed to do, and pulls each client's model towards the one that it was sent.
    algorithm=mn.FedProx(model, local, mu=0.01),
    rounds=30,
    cohort=mn.Cohort(size=10),  # ten of the twenty, drawn anew in every round
)

# The simulated world, which is not part of the study: four clients of five are slow, and one answer in ten is lost.
conditions = mn.Conditions(stragglers=0.8, drop_before_upload=0.1)

if __name__ == "__main__":
    counted = mn.simulate(study, data, seed=1, conditions=conditions)
    fedavg = replace(study, algorithm=mn.FedAvg(model, local))
    dropped = mn.simulate(fedavg, data, seed=1, conditions=replace(conditions, drop_stragglers=True))

    runs = {"FedProx, slow clients count": counted, "FedAvg, slow clients dropped": dropped}
    for name, run in runs.items():
        # The mean over the last rounds: one round's accuracy depends on who was drawn.
        accuracy = run.series("accuracy")[1][-5:].mean()
        print(f"{name}: accuracy {accuracy:.3f} on the test set")

    path = Path("runs/digits.png")
    path.parent.mkdir(exist_ok=True)
    plot_runs({name: (run.history, run.probe) for name, run in runs.items()}, path)
    print(f"Drawn into {path}")
