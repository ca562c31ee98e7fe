"""A thousand writers train a digit reader together. The model says little about any one of them: epsilon 4 for each client.

    manent check examples/private_digits.py        who sees what, and the epsilon against each of them
    manent run examples/private_digits.py --set budget.epsilon=1.0
    python examples/private_digits.py              with and without privacy, and with a ledger

Each client clips its update, the server adds noise to the total, and only the noised total is used. The server is trusted here:
it sees every update before the noise (the statement says so). Needs: pip install 'manent[data]' for the digits.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import manent as mn
from manent.accounting import Ledger
from manent.storage import open_store

# 1,438 small digits, so that most of the thousand clients hold one or two. Privacy is easier where many take part.
data = mn.data.digits(clients=1000, flat=True)

study = mn.Study(
    name="private digits",
    algorithm=mn.FedAvg(
        mn.SoftmaxModel(64, 10),
        mn.LocalSGD(lr=1.0, epochs=1, batch_size=4),
        weighting="equal",  # sizes are private too, so every client counts the same
    ),
    rounds=20,
    # Each client takes part in a round with probability 0.2. Only the server knows who did: that lowers everyone else's epsilon.
    cohort=mn.Cohort(sampling_probability=0.2),
    layers=[mn.Clip(1.0), mn.CentralNoise()],  # how much noise follows from the budget
    budget=mn.Budget(epsilon=4.0, delta=1e-4, privacy_unit="client", neighboring_relation="add_or_remove"),
)

if __name__ == "__main__":
    bare = replace(study, layers=(), budget=None)
    print(f"Without privacy: accuracy {mn.simulate(bare, data, seed=1).probe[-1]['test']['accuracy']:.3f}")

    # A ledger records what was spent on these people's data, across runs and programs. It does not allow a second run like this.
    with TemporaryDirectory() as folder:
        ledger = Ledger(open_store(Path(folder) / "ledger.db"))
        ledger.open("digits", replace(study.budget, epsilon=5.0))
        run = mn.simulate(study, data, seed=1, ledger=ledger)
        print(f"With epsilon 4 for each client: accuracy {run.probe[-1]['test']['accuracy']:.3f}")
        account = ledger.account("digits")
        print(f"The ledger: epsilon {account.spent:.2f} of {account.budget.epsilon:g} is spent")
        try:
            mn.simulate(study, data, seed=2, ledger=ledger)
        except mn.BudgetSpent as refusal:
            print(f"Refused before anything ran: {refusal}")

    print(f"\n{run.statement}")
