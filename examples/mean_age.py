"""Not every study trains a model: the mean age of four hospitals' patients, from one sum.

    manent run examples/mean_age.py
    manent run examples/mean_age.py --set algorithm.column=chol
    python examples/mean_age.py                 the mean, and a histogram of chest pain

Each hospital sends two numbers, the sum of its patients' ages and how many they are; the server adds them up. The schema declares
public bounds of the column (0 to 120 years), and values are clipped to them.
"""

import manent as mn

data = mn.data.heart_disease()

study = mn.Study(name="mean age", algorithm=mn.Mean("age"))

if __name__ == "__main__":
    answer = mn.simulate(study, data).result
    print(f"Mean age {float(answer['mean']):.1f} years, of {int(answer['count'])} patients")

    # Any declared column will do. A column of codes is counted code by code.
    column = data.schema.column("cp")
    counted = mn.simulate(mn.Study(mn.Histogram("cp")), data).result
    for code, count in zip(counted["codes"], counted["counts"], strict=True):
        print(f"  {column.codes[int(code)]:18} {int(count):4}")
