"""Phones learn to read digits. Each adds its share of the noise and masks its vector; one in ten drops out of every round.

    python examples/secure_phones.py
    manent check examples/secure_phones.py
    manent run examples/secure_phones.py --set summation.modelled=true        the same sums without the cryptography

Secure aggregation: the server learns the total of each round and nothing about its terms, even if it lies. Shares of noise:
together, those of the honest phones that answer hide what one phone adds to a total. So nobody trusts the server with the noise.
Needs: pip install 'manent[data]' for the digits.
"""

import manent as mn

data = mn.data.digits(clients=40, flat=True)

study = mn.Study(
    name="secure phones",
    algorithm=mn.FedAvg(mn.SoftmaxModel(64, 10), mn.LocalSGD(lr=1.0, epochs=1, batch_size=4), weighting="equal"),
    rounds=8,
    # The sum is formed, and there is enough noise, even if 15% of those asked vanish, and another 10% collude with the server.
    layers=[mn.Clip(1.0), mn.DistributedNoise()],
    summation=mn.SecAgg(corrupt=0.1, dropped=0.15),
    # Shares of noise tell how many there are, so what is hidden is what a phone contributes: it might as well be zero.
    budget=mn.Budget(epsilon=8.0, delta=1e-4, privacy_unit="client", neighboring_relation="zero_out"),
)
conditions = mn.Conditions(drop_before_training=0.03, drop_before_upload=0.04, drop_after_upload=0.03)

if __name__ == "__main__":
    run = mn.simulate(study, data, seed=1, conditions=conditions)
    print(
        f"Accuracy {run.probe[-1]['test']['accuracy']:.3f} after {study.rounds} rounds, of which "
        f"{sum('abandoned' in row for row in run.history)} were abandoned\n"
    )
    print(run.statement)
