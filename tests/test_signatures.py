import inspect
from collections import defaultdict

import pytest

import eqcifar.data
import eqcifar.models
import eqcifar.parallel
import eqcifar.runs
import eqcifar.sharpness
import eqcifar.training

ROOMS = (
    eqcifar.data,
    eqcifar.models,
    eqcifar.parallel,
    eqcifar.runs,
    eqcifar.sharpness,
    eqcifar.training,
)
# One word for two things, and what they are.
TWO_MEANINGS = {
    "size": "of an image that is read, of one that may be checked",
    "points": "of a curve of the density, of a line of the landscape",
    "steps": "of Lanczos, of ascent",
    "width": "of a network, of a Gaussian",
    "rtol": "where a pass stops, if it is to; of eigenvalues and of a check, always",
    "scaled": "one scaling of directions, several of outputs",
}


def defaults():
    found = defaultdict(lambda: defaultdict(list))
    for room in ROOMS:
        for name in dir(room):
            function = getattr(room, name)
            ours = getattr(function, "__module__", "").startswith("eqcifar.")
            if name.startswith("_") or not ours or inspect.isclass(function):
                continue
            if not callable(function):
                continue
            for parameter in inspect.signature(function).parameters.values():
                value = parameter.default
                # What does nothing when it is called stands for nothing.
                value = "nothing" if callable(value) or value is None else repr(value)
                if parameter.default is not parameter.empty:
                    found[parameter.name][value].append(name)
    return {name: dict(values) for name, values in found.items()}


def test_an_argument_has_one_default_in_all_functions():
    several = {name: found for name, found in defaults().items() if len(found) > 1}
    assert several.keys() == TWO_MEANINGS.keys(), several


@pytest.mark.parametrize("name", ["loss"])
def test_no_loss_is_guessed(name):
    assert defaults().get(name, {}).keys() <= {"nothing"}
