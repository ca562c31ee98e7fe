"""Real patients of four hospitals: the UCI Heart Disease data, prepared as in FLamby's Fed-Heart-Disease."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.examples import Client, Column, Examples, Schema
from manent.core.vectors import Array
from manent.data.federation import Federation

Normalise = Literal["centre", "pooled", "none"]

MEASURED = (
    Column("age", "years", 0, 120, description="Age at the visit."),
    Column("sex", codes={0: "female", 1: "male"}, description="Sex as recorded."),
    Column(
        "trestbps", "mm Hg", 0, 300, description="Resting blood pressure on admission. One zero (VA Long Beach) means missing."
    ),
    Column(
        "chol",
        "mg/dl",
        0,
        700,
        description="Serum cholesterol. Zero means missing: so for every patient of Switzerland and 33 of 130 at VA Long Beach.",
    ),
    Column("fbs", codes={0: "no", 1: "yes"}, description="Fasting blood sugar above 120 mg/dl."),
    Column("thalach", "beats/min", 40, 250, description="Highest heart rate reached."),
    Column("exang", codes={0: "no", 1: "yes"}, description="Angina brought on by exercise."),
    Column("oldpeak", "mm", -10, 10, description="ST depression in exercise, relative to rest."),
)
CODED = (
    Column(
        "cp",
        codes={1: "typical angina", 2: "atypical angina", 3: "non-anginal pain", 4: "asymptomatic"},
        description="Type of chest pain.",
    ),
    Column(
        "restecg",
        codes={0: "normal", 1: "ST-T wave abnormality", 2: "left ventricular hypertrophy"},
        description="Electrocardiogram at rest.",
    ),
)
DUMMIES = (("cp", 2), ("cp", 3), ("cp", 4), ("restecg", 1), ("restecg", 2))
GRADE = Column(
    "num",
    codes={0: "none", 1: "grade 1", 2: "grade 2", 3: "grade 3", 4: "grade 4"},
    description="Angiographic disease as recorded, 0 to 4; the label is whether it is above 0.",
)
TARGET = Column("disease", codes={0: "healthy", 1: "disease"}, description="Coronary narrowing above 50 % in a major vessel.")


def heart_disease(normalise: Normalise = "centre") -> Federation:
    """740 patients of four centres, with and without coronary disease. The task: who is ill, from 13 features?

    | client        | patients | train | test | ill   |
    |---------------|----------|-------|------|-------|
    | Cleveland     | 303      | 199   | 104  | 45.9% |
    | Hungary       | 261      | 172   | 89   | 37.5% |
    | Switzerland   | 46       | 30    | 16   | 97.8% |
    | VA Long Beach | 130      | 85    | 45   | 77.7% |

    Compare any accuracy with these base rates. The parts and the features follow FLamby (du Terrail et al. 2022,
    Fed-Heart-Disease): slope, ca and thal are left out, and then patients with any missing value. Chest pain and
    electrocardiogram become indicators, without their first category.

    x is float32[n, 13], y int64[n], 0 or 1. `columns` holds each measurement in its own unit, and "num", the grade of disease.
    These are the schema's columns. Where a feature has the same name, the column is the measurement in its unit.

    Known faults are left as published. Cholesterol is 0 where it was not measured (all of Switzerland, 33 of 130 at VA Long
    Beach), and so is one blood pressure at VA Long Beach. The bounds allow these zeros. All 30 training patients of Switzerland
    are ill.

    Args:
        normalise: "centre" standardises each feature by the mean and standard deviation (ddof 1) of the centre's own training
            rows. "pooled" uses all training rows, as FLamby's pooled test does: then use `.pooled("test")`. "none" leaves the
            features in their own units. A feature that is constant in those rows becomes 0.

    Source: Janosi, Steinbrunn, Pfisterer and Detrano (1989), UCI Machine Learning Repository, doi:10.24432/C52P4X, CC BY 4.0;
    NOTICE lists the changes. Raises InvalidInput for another `normalise`.
    """
    validate.one_of("heart_disease", "normalise", normalise, ("centre", "pooled", "none"))
    centre, train, columns = _table()
    raw = _features(columns)
    y = (columns["num"] > 0).astype(np.int64)
    clients = []
    for name in dict.fromkeys(centre.tolist()):
        own = centre == name
        basis = {"centre": raw[own & train], "pooled": raw[train], "none": None}[normalise]
        x = _standardised(raw, basis)
        parts = [Examples(x[rows], y[rows], {k: v[rows] for k, v in columns.items()}) for rows in (own & train, own & ~train)]
        clients.append(Client(name, parts[0], parts[1]))
    return Federation(tuple(clients), _schema(normalise), "heart_disease")


def _table() -> tuple[Array, NDArray[np.bool_], dict[str, Array]]:
    """Each row's centre [740], whether it is a training row [740], and the columns [740]: int64 where coded, else float32."""
    text = (files("manent.data") / "bundled" / "heart_disease.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    coded = {column.name for column in (*MEASURED, *CODED, GRADE) if column.codes}
    columns = {
        column.name: np.array([float(row[column.name]) for row in rows]).astype(np.int64 if column.name in coded else np.float32)
        for column in (*MEASURED, *CODED, GRADE)
    }
    return np.array([row["centre"] for row in rows]), np.array([row["part"] == "train" for row in rows]), columns


def _features(columns: dict[str, Array]) -> NDArray[np.float64]:
    plain = [columns[column.name].astype(np.float64) for column in MEASURED]
    return np.stack([*plain, *((columns[name] == code).astype(np.float64) for name, code in DUMMIES)], axis=1)


def _standardised(raw: NDArray[np.float64], basis: NDArray[np.float64] | None) -> NDArray[np.float32]:
    if basis is None:
        return raw.astype(np.float32)
    sd = basis.std(axis=0, ddof=1)
    x: NDArray[np.float32] = ((raw - basis.mean(axis=0)) / np.where(sd > 0, sd, 1.0)).astype(np.float32)
    return x


def _schema(normalise: Normalise) -> Schema:
    coded = {column.name: column for column in CODED}
    features = list(MEASURED)
    for name, code in DUMMIES:
        meaning = f"{coded[name].description[:-1]}: {coded[name].codes[code]}."
        features.append(Column(f"{name}_{code}", codes={0: "no", 1: "yes"}, description=meaning))
    if normalise != "none":
        whose = "the centre's own" if normalise == "centre" else "all centres'"
        features = [
            Column(c.name, "sd", description=f"{c.description} In standard deviations from the mean of {whose} training rows.")
            for c in features
        ]
    return Schema(tuple(features), TARGET, (len(features),), 2, (*MEASURED, *CODED, GRADE))
