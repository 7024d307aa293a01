import json

from eqcifar import models

from .cli_tools import run_cli


def test_archs_counts_agree_with_the_papers():
    result = run_cli("archs", "resnet20", "wrn28-10", "--json")
    assert result.exit_code == 0
    small, wide = json.loads(result.stdout)["architectures"]
    # He et al. 2016: 0.27 million; Zagoruyko & Komodakis 2016: 36.5 million.
    assert small["name"] == "resnet20"
    assert round(small["parameters"] / 1e6, 2) == 0.27
    assert round(wide["parameters"] / 1e6, 1) == 36.5
    assert wide["flops"] == 2 * wide["multiply_adds"]
    assert round(wide["multiply_adds"] / 1e9, 1) == 5.2


def test_archs_table_and_width():
    result = run_cli("archs", "resnet8", "wrn10-2", "--width", 0.5, "--classes", 100)
    assert result.exit_code == 0
    title, *lines = result.stdout.splitlines()
    assert title == "Architectures for 100 classes at width 0.5, images of 32 x 32"
    rows = [line.split() for line in lines if line.split()]
    assert [row[0] for row in rows[2:4]] == ["resnet8", "wrn10-2"]
    assert "2 FLOPs" in lines[-1]


def test_archs_without_names_are_all(monkeypatch):
    asked, create = [], models.create

    def small(name, *arguments, **options):
        asked.append(name)
        return create("resnet8", *arguments, **options)

    monkeypatch.setattr(models, "create", small)
    assert run_cli("archs").exit_code == 0
    assert asked == [*models.ARCHITECTURES]
