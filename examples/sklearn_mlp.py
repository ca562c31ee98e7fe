"""A scikit-learn estimator, trained over clients: a small neural network on digits, with a server that adapts its steps.

    manent run examples/sklearn_mlp.py
    manent run examples/sklearn_mlp.py --set algorithm.server_lr=0.03
    python examples/sklearn_mlp.py              trains; then saves the model and loads it again

scikit-learn says what the model is; manent computes its gradients. Needs: pip install 'manent[sklearn]'
"""

from pathlib import Path

from sklearn.neural_network import MLPClassifier

import manent as mn

# Two shards a client: most clients see only two kinds of digit.
data = mn.data.digits(clients=20, split=mn.data.Shards(2), flat=True)

study = mn.Study(
    name="digits with scikit-learn",
    # FedAdam's server keeps a moving mean and variance of the clients' average step, which helps where clients differ so much.
    algorithm=mn.FedAdam(
        mn.SklearnModel(MLPClassifier(hidden_layer_sizes=(32,), alpha=0), features=64, classes=10),
        mn.LocalSGD(lr=0.1, epochs=2, batch_size=16),
        server_lr=0.03,
    ),
    rounds=40,
)

if __name__ == "__main__":
    run = mn.simulate(study, data, seed=1)
    print(f"Accuracy on the central test set: {run.model.evaluate(data.test)['accuracy']:.3f}")

    # Weights are saved as named tensors (safetensors): loading a file never runs code from it.
    path = Path("runs/digits.safetensors")
    path.parent.mkdir(exist_ok=True)
    run.model.save(path)
    again = mn.load_model(path, study.algorithm.model)
    print(f"Loaded from {path}: the first ten test digits read {again.predict(data.test.x[:10])}, and are {data.test.y[:10]}")
