"""A flax network over clients that hold only a few kinds of digit. SCAFFOLD corrects the drift that this causes.

    manent run examples/flax_digits.py
    python examples/flax_digits.py              SCAFFOLD beside FedAvg, with the same network and the same seed

Needs: pip install 'manent[jax,sklearn]' flax
"""

import sys
from dataclasses import replace

import manent as mn

try:
    from flax import linen as nn
except ImportError:
    print("Skipped: this example needs flax. Install it with: pip install flax")
    sys.exit()


class Network(nn.Module):
    """Two convolutions and a dense layer. With GroupNorm in place of BatchNorm, a row's scores depend on that row alone."""

    @nn.compact
    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)  # manent's images are [n, channels, height, width], flax wants channels last
        for width in (8, 16):
            x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(width, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


data = mn.data.digits(clients=20, split=mn.data.Shards(2), test_fraction=0.2)
network, some = Network(), data.clients[0].train.x[:1]

# A flax module is two pure functions already: init(key, x) draws the parameters, and apply(parameters, x) gives the scores.
model = mn.JaxModel(lambda key: network.init(key, some), network.apply, "cross_entropy", classes=10)

study = mn.Study(
    name="digits with flax",
    algorithm=mn.SCAFFOLD(model, mn.LocalSGD(lr=0.1, epochs=2, batch_size=16)),
    rounds=20,
    cohort=mn.Cohort(size=10),
)

if __name__ == "__main__":
    print(f"{model.layout.size:,} parameters, such as {', '.join(e.name for e in model.layout.blocks[0].entries[:2])}")
    fedavg = replace(study, algorithm=mn.FedAvg(model, study.algorithm.local))
    for name, each in (("SCAFFOLD", study), ("FedAvg", fedavg)):
        run = mn.simulate(each, data, seed=1)
        print(f"{name}: accuracy {run.series('accuracy')[1][-5:].mean():.3f} on the test set, over the last five rounds")
