"""Run a failed client again, on the inputs that a run kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from manent.core.errors import InvalidInput
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.study import Study
from manent.crypto.random import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.data.federation import Federation
from manent.privacy.check import resolve
from manent.privacy.examples import declared


def replay(folder: str | Path, study: Study, data: Federation) -> Contribution:
    """What the client answers to the inputs in a `failures/...` folder of a run. What its code raises is raised as it is.

    Private training draws noise anew, as much as the study's budget gives.

    Raises InvalidInput where the folder holds no inputs, or the data have no such client.
    """
    path = Path(folder)
    if not (path / "failure.json").is_file():
        raise InvalidInput(f"{path} holds no failure.json; give a folder under failures/ of a run.")
    facts = json.loads((path / "failure.json").read_text())
    tensors = load_file(path / "inputs.safetensors")
    arrays = {name.removeprefix("array."): array for name, array in tensors.items() if name.startswith("array.")}
    context = ClientContext(**{**facts["context"], "draws": ExactDraws(SystemRandom())})
    found = [client for client in data.clients if client.name == context.client]
    if not found:
        raise InvalidInput(f"The data have no client {context.client!r}; they have {', '.join(data.names[:10])}.")
    memory = None if tensors.get("memory") is None else np.asarray(tensors["memory"], np.float32)
    algorithm = (
        study.algorithm if declared(study) is None else resolve(study, data).study.algorithm
    )  # with the noise of its budget
    (contribution,) = algorithm.answer(Assignment(facts["sum"], arrays), found, [memory], [context])
    return contribution
