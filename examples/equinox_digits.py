"""An equinox module, trained over twenty clients; the trained weights are then put back into the module.

    manent run examples/equinox_digits.py
    python examples/equinox_digits.py           trains, and reads ten digits with the module itself

Needs: pip install 'manent[jax,sklearn]' equinox
"""

import sys

import jax

import manent as mn

try:
    import equinox as eqx
except ImportError:
    print("Skipped: this example needs equinox. Install it with: pip install equinox")
    sys.exit()


def network(key):
    return eqx.nn.MLP(in_size=64, out_size=10, width_size=64, depth=2, key=key)


def init(key):
    """The arrays of a fresh module. The rest of it (activations, sizes) is the same for every key, and is not trained."""
    return eqx.filter(network(key), eqx.is_array)


def apply(parameters, x):
    """Scores [n, 10]: equinox modules take one row, so vmap takes them over the batch."""
    return jax.vmap(eqx.combine(parameters, STATIC))(x)


data = mn.data.digits(clients=20, split=mn.data.Dirichlet(0.3), flat=True)
model = mn.JaxModel(
    init, apply, "cross_entropy", classes=10
)  # made before JAX computes anything, so that JAX starts with one thread
STATIC = eqx.filter(network(jax.random.key(0)), eqx.is_array, inverse=True)

study = mn.Study(
    name="digits with equinox",
    algorithm=mn.FedAvg(model, mn.LocalSGD(lr=0.2, epochs=3, batch_size=16, momentum=0.5)),
    rounds=20,
    cohort=mn.Cohort(size=10),
)

if __name__ == "__main__":
    run = mn.simulate(study, data, seed=1)
    print(f"Accuracy on the central test set: {run.model.evaluate(data.test)['accuracy']:.3f}")

    # The same module, with the trained arrays: everything that equinox offers works on it.
    trained = eqx.combine(model.tree(run.model.vector), STATIC)
    labels = jax.vmap(trained)(data.test.x[:10]).argmax(axis=1)
    print(f"The first ten test digits read {labels}, and are {data.test.y[:10]}")
