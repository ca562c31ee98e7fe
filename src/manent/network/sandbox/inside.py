"""The inner process of a study's code, after `confine` has confined it: the study's model trains, and vectors go out.

The study's code may alter everything in this process, this module too. So the site believes nothing that it says, except numbers
that fit the shape in the site's own plan.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from manent.core import validate
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, ManentError
from manent.core.examples import Client
from manent.core.protocols import Algorithm, AlgorithmTraits, Assignment, ClientContext, traits
from manent.core.study import Study
from manent.core.vectors import Array
from manent.crypto.random import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.sandbox import handover
from manent.network.wire import frames
from manent.rounds.declared import declared_model, rebuild

MODULE = "study_file"
"""The module name of a study file everywhere, as a study's hash names the classes in it."""
ENTRY = "study.py"
MOST_TOLD = 2000


def serve(commands: int, answers: int, data: int) -> None:
    """Prepare the study that the first frame names, then answer the frames that follow, until there are no more.

    Args:
        commands, answers, data: descriptors to read requests from, to write answers to, and to read the client's data from.
    """
    first = frames.read(commands)
    if first is None:
        return
    try:
        client = handover.read(data)
        algorithm = _algorithm(first.head["study"], Path.cwd())
        algorithm.check(client)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the code raises is reported
        frames.write(answers, {"error": _told(error)}, {})
        return
    frames.write(answers, {"model": type(traits(algorithm, AlgorithmTraits).model).__name__}, {})
    while (frame := frames.read(commands)) is not None:
        try:
            head, arrays = _answer(algorithm, client, frame)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            head, arrays = {"error": _told(error)}, {}
        frames.write(answers, head, arrays)


def _algorithm(document: Mapping[str, Any], folder: Path) -> Algorithm:
    """The study's algorithm with the model of the study's code, which must be the declared one.

    Nothing else of the code's own study counts: rounds, algorithm and training are those that the site has read and decided
    about.
    """
    study = rebuild(document)
    own = vars(handover.execute(folder / ENTRY, MODULE)).get("study")
    if not isinstance(own, Study):
        raise InvalidInput(f"{ENTRY} must define 'study', a Study; found {validate.typed(own)}.")
    declared = declared_model(study)
    if declared is None:
        return study.algorithm
    model = traits(own.algorithm, AlgorithmTraits).model
    if canonical(to_plain(model)) != canonical(to_plain(declared)):
        raise InvalidInput(
            f"The model in {ENTRY} is not the one that the study declares: its code, layout or settings differ. "
            f"Send the code that the study was made from, under the same versions."
        )
    algorithm: Any = study.algorithm
    made: Algorithm = replace(algorithm, model=model)
    return made


def _answer(algorithm: Algorithm, client: Client, frame: frames.Frame) -> tuple[dict[str, Any], dict[str, Array]]:
    head, arrays = frame.head, dict(frame.arrays)
    memory = arrays.pop("memory", None)
    sent = {name.removeprefix("array."): array for name, array in arrays.items()}
    draws = ExactDraws(SystemRandom()) if head["draws"] else None
    context = ClientContext(head["client"], head["round"], head["seed"], head["work"], draws)
    asked = client.emptied() if head["empty"] else client
    (found,) = algorithm.answer(Assignment(head["sum"], sent), [asked], [memory], [context])
    answer = {"vector": found.vector} | ({} if found.memory is None else {"memory": found.memory})
    loss = float(found.probe.get("loss", math.nan))
    return {"loss": loss if math.isfinite(loss) else None}, answer


def _told(error: BaseException) -> str:
    """What a person needs to fix it: what was raised, and where in the study's code."""
    folder = os.getcwd()
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(f"{folder}/")]
    where = f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""
    what = str(error) if isinstance(error, ManentError) else f"{type(error).__name__}: {error}"
    print(what, file=sys.stderr)
    return f"{what[:MOST_TOLD]}{where}"
