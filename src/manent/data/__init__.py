"""Federations: clients with data and a schema. Splits, constructors, and real data to load."""

from manent.data.constructors import from_arrays, from_csv, from_frame, from_parquet, from_torch
from manent.data.describe import Description
from manent.data.federation import Federation
from manent.data.generated import synthetic
from manent.data.heart import heart_disease
from manent.data.images import digits, fashion_mnist, mnist
from manent.data.plays import VOCABULARY, decode, encode, shakespeare
from manent.data.shift import feature_shift
from manent.data.splits import IID, Dirichlet, LabelSkew, QuantitySkew, Shards, Split, by_key

__all__ = [
    "IID",
    "VOCABULARY",
    "Description",
    "Dirichlet",
    "Federation",
    "LabelSkew",
    "QuantitySkew",
    "Shards",
    "Split",
    "by_key",
    "decode",
    "digits",
    "encode",
    "fashion_mnist",
    "feature_shift",
    "from_arrays",
    "from_csv",
    "from_frame",
    "from_parquet",
    "from_torch",
    "heart_disease",
    "mnist",
    "shakespeare",
    "synthetic",
]
