import json
import math
import re
from pathlib import Path

import pytest

from benchmarks import shared, tables
from benchmarks.__main__ import commands
from eqcifar.measurements._sharpness_table import rise_note
from eqcifar.sharpness import Estimate, Measured
from eqcifar_cli import _compare


def test_the_pages_are_what_the_results_say():
    for name, text in tables.pages().items():
        assert (tables.PAGES / f"{name}.md").read_text() == text, name
    made = {p.stem for p in tables.PAGES.glob("*.md") if "benchmarks" in p.read_text()}
    assert made == set(tables.TITLES)


def test_every_result_is_on_a_page_and_some_command_makes_it():
    sections = [s for _, each in tables.TITLES.values() for s in each]
    on_pages = {name for section in sections for name in section.results}
    for path in shared.RESULTS.glob("*.json"):
        assert path.stem in on_pages, path.name
        for record in shared.records(path.stem):
            program, _, words = record["command"].partition("benchmarks ")
            assert program.startswith("eqcifar train") or words.split()[0] in commands()
            assert {"cores", "versions"} <= set(record["environment"])


def test_a_section_says_at_most_three_sentences():
    for _, sections in tables.TITLES.values():
        for section in sections:
            assert 1 <= len(re.findall(r"[.](?: |$)", section.says)) <= 3, section


def test_rows_take_the_place_of_their_namesakes(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", str(tmp_path)])
    shared.store("speed", [shared.row("a", "s", 1.0), shared.row("b", "s", 2.0)])
    shared.store("speed", [shared.row("a", "s", 3.0)])
    (record,) = shared.records("speed")
    assert {r["what"]: r["value"] for r in record["rows"]} == {"a": 3.0, "b": 2.0}
    assert record["command"] == "python -m benchmarks speed FOLDER"
    # Of another command, or another machine, there is another record.
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--batch", "8"])
    shared.store("speed", [shared.row("b", "s", 4.0)])
    first, second = json.loads((tmp_path / "speed.json").read_text())["records"]
    assert [r["what"] for r in first["rows"]] == ["a"]
    assert second["rows"] == [{"what": "b", "value": 4.0, "unit": "s"}]


def test_a_share_has_wilsons_interval():
    # By scipy.stats.binomtest(945, 1000).proportion_ci(method="wilson").
    found = shared.share("x", "coverage", 945, 1000)
    assert found["value"] == 0.945
    assert found["low"] == pytest.approx(0.92914, abs=1e-4)
    assert found["high"] == pytest.approx(0.95751, abs=1e-4)


def test_turns_alternate_and_the_first_round_is_not_counted():
    order = []
    seconds = shared.alternate({k: lambda k=k: order.append(k) for k in "ab"}, 2)
    assert order == ["a", "b"] * 3
    assert [len(s) for s in seconds.values()] == [2, 2]


def test_captions_say_what_was_measured():
    def range_of(name, *having):
        found = [
            row["value"]
            for record in shared.records(name)
            for row in record["rows"]
            if row["unit"] == "coverage" and any(w in row["what"] for w in having)
        ]
        low, high = (math.floor(100 * x + 0.5) for x in (min(found), max(found)))
        return f"{low} to {high} %"

    estimate = Estimate(1.0, data_error=0.1, bias=0.2, probes=5)
    values = {"sam": estimate, "average": estimate}
    found = {"test": {"radius": Measured(values)}}
    sam, average = rise_note(found)
    assert range_of("coverage_fitted", "worst rise") in sam
    assert range_of("coverage_fitted", "mean rise") in average
    few = range_of("coverage", " 5 probes", " 10 probes", " 20 probes")
    assert few in Path(_compare.__file__).read_text()
