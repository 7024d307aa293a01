import dataclasses
import json
from typing import Annotated, Literal

import pytest

from eqcifar.config import (
    CompareOptions,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimisationConfig,
    SharpnessOptions,
    TrainConfig,
)
from eqcifar.errors import UsageError
from eqcifar.fields import parse_values
from eqcifar.options import Options, option
from eqcifar_cli._options import Reader, arguments
from eqcifar_cli._run_options import RunOptions
from eqcifar_cli._sharpness_options import Wanted

from .cli_tools import parse_options, run_cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probing(Options):
    panel = "Probes"

    count: int = option(2, "How many.", at_least=1, at_most=8, short="-n", metavar="N")
    share: float | None = option(None, "Part of the whole.", above=0, below=1)
    names: tuple[str, ...] = option((), "Any number of names.", metavar="NAME")
    weights: tuple[float, float] = option((1.0, 2.0), "Two numbers.", at_least=0)
    kind: Literal["a", "b"] | None = option(None, "One of two.")
    loud: bool = option(False, "Whether it is.")
    sure: bool = option(True, "Whether it is.")
    total: int = option(12, "The whole.")
    group: int = option(0, "A part.", divides="total")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("-n 8 --share 0.5", {"count": 8, "share": 0.5}),
        ("--names x --names y,z", {"names": ("x", "y,z")}),
        ("--weights 0 1 --kind b --loud", {"weights": (0.0, 1.0), "kind": "b"}),
        ("--no-sure --group 4", {"sure": False, "group": 4}),
    ],
)
def test_each_field_is_an_option(words, values):
    values |= {"loud": True} if "--loud" in words else {}
    given, result = parse_options(Probing, *words.split())
    assert result.exit_code == 0, result.stderr
    assert given == Probing(**values)
    assert Probing.from_dict(json.loads(json.dumps(given.to_dict()))) == given


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--count 9", "count = 9: must be at least 1 and at most 8"),
        ("--share 1", "share = 1.0: must be above 0 and below 1"),
        ("--share nan", "share = nan: must be finite"),
        ("--weights 1 -1", "weights = (1.0, -1.0): must be each at least 0"),
        ("--group 5", "group = 5: must be 0 or a divisor of the total, 12"),
        ("--no-loud", "No such option: --no-loud"),
        ("--count x", "Invalid value for '--count' / '-n': must be a whole number"),
    ],
)
def test_what_is_out_of_bounds_is_one_line_in_python_and_here(words, line):
    given, result = parse_options(Probing, *words.split())
    assert (given, result.exit_code) == (None, 2)
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"count": True}, "count = True: must be a whole number"),
        ({"count": 2.0}, "count = 2.0: must be a whole number"),
        ({"share": "0.5"}, "share = '0.5': must be a number"),
        ({"weights": [1.0]}, r"weights = \[1.0\]: must be 2 numbers"),
        ({"weights": 1.0}, "weights = 1.0: must be 2 numbers"),
        ({"kind": "c"}, "kind = 'c': must be a or b"),
        ({"loud": 1}, "loud = 1: must be true or false"),
        ({"names": [3]}, "names = 3: must be a text"),
        ({"share": 10**400}, "must be finite"),
        ({"cuont": 3}, "unknown configuration key 'cuont'; did you mean 'count'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(values, line):
    with pytest.raises(UsageError, match=line):
        Probing.from_dict(values)


def test_a_reader_makes_what_the_fields_alone_do_not():
    def read(given: dict, *, times: int = 1) -> list[Probing]:
        values = parse_values("count", given.pop("count", "1"), int)
        return [Probing(count=value * times) for value in values]

    many = Annotated[list[Probing], Reader(Probing, read, many=True)]
    found, _ = parse_options(many, "--count", "1-3", "--times", "2")
    assert [each.count for each in found] == [2, 4, 6]


def test_help_has_every_field_in_the_panel_of_its_class():
    lines = run_cli("train", "--help", COLUMNS="300").stdout.splitlines()
    panels, current = {}, ""
    for line in lines:
        if line.startswith("╭─"):
            current = line.strip("╭─╮ ")
        elif line.startswith("│ --"):
            panels[line.split()[1]] = current
    for part in (ModelConfig, DataConfig, OptimisationConfig, EvaluationConfig):
        fields = {field.name for field in dataclasses.fields(part)}
        flags = {f"--{name.replace('_', '-')}" for name in fields}
        assert {flag for flag, panel in panels.items() if panel == part.panel} == flags
    parts = {name for part in TrainConfig.__bases__ for name in part.__annotations__}
    assert {field.name for field in dataclasses.fields(TrainConfig)} == parts


@pytest.mark.parametrize(
    "kind", [TrainConfig, RunOptions, SharpnessOptions, CompareOptions, Wanted]
)
def test_every_default_is_within_its_bounds(kind):
    assert parse_options(kind)[0] == kind() == kind.from_dict(kind().to_dict())


def test_a_part_of_a_configuration_stands_alone():
    assert DataConfig(mixup_group=3).mixup_group == 3
    with pytest.raises(UsageError, match="a divisor of the batch size, 1000"):
        TrainConfig(mixup_group=3)
    with pytest.raises(UsageError, match="val_size = -1: must be at least 0"):
        DataConfig(val_size=-1)


def test_the_options_of_a_run_are_given_to_each_of_a_sweep():
    options = RunOptions(devices=2, remat=True, track=("wandb", "tensorboard"))
    assert parse_options(RunOptions, *arguments(options))[0] == options
    assert arguments(RunOptions()) == []
