"""Four hospitals learn together who has coronary disease. No patient's row leaves its hospital.

    manent check examples/hospitals.py         who will see what
    manent run examples/hospitals.py           train, and keep everything in a folder under runs/
    manent run examples/hospitals.py --set rounds=30 --set algorithm.local.lr=0.02
    python examples/hospitals.py               the same as a script

A study file defines `study` (what is computed, on whom, behind which guards) and `data` (here real patients of Cleveland,
Hungary, Switzerland and Long Beach; they come with manent).
"""

import manent as mn

data = mn.data.heart_disease()

study = mn.Study(
    name="hospitals",
    algorithm=mn.FedAvg(
        mn.LogisticModel(features=13),
        # In each round, each hospital makes 100 steps on batches of 4 of its own patients, and sends how its model changed.
        local=mn.LocalSGD(lr=0.01, steps=100, batch_size=4),
        # Every fifth round they also add up how well the model does on patients that it was not trained on.
        evaluation=mn.Evaluation(every=5, metrics=("accuracy", "auc")),
    ),
    rounds=15,
)

if __name__ == "__main__":
    print(data.describe())
    run = mn.simulate(study, data, seed=1)

    # What a real server would know: sums over the hospitals.
    sums = [row for row in run.history if row["sum"] == "evaluate"]
    print(f"All hospitals' test patients together: accuracy {sums[-1]['accuracy']:.3f}, AUC {sums[-1]['auc']:.3f}")

    # What only a simulation can know: each hospital by itself. Read accuracy beside the base rates above.
    for hospital, metrics in run.probe[-1]["client"].items():
        print(f"  {hospital:14} accuracy {metrics['accuracy']:.3f}")
    print(f"\n{run.statement}")
