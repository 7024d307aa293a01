import base64
import dataclasses
import html.parser
import itertools
import math
import re
import shlex
import shutil
import subprocess
from collections import Counter

import pytest

from eqcifar.config import TrainConfig
from eqcifar.fields import train_command
from eqcifar.recipes import recipe_options
from eqcifar.results import read_records, sharpness_columns, tabulate
from eqcifar.results._measures_table import legend, measures_table
from eqcifar.storage import find_runs
from eqcifar_cli._configs import Config

from .cli_tools import parse_options, run_cli
from .results_tools import write_grid, write_run, write_tsv

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from PIL import Image  # noqa: E402

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Collects what a page holds, and finds elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.errors, self.attributes, self.text = [], [], [], ""
        self.tags = Counter()
        self.feed(text)
        self.close()
        self.errors += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *attribute) for attribute in attrs]
        names = [name for name, _ in attrs]
        self.errors += [f"<{tag}> has two {n}" for n in names if names.count(n) > 1]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.text += f" {data}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    root = folder / "results <b>&amp;"
    write_grid(root, sharpness=True)
    for seed in range(3):
        config = TrainConfig(dataset="synthetic", arch="vgg11", epochs=4, seed=seed)
        write_run(root, config, 0.5 + seed / 10)
    first = find_runs(root)[0].path
    (first / "sharpness_spectrum.svg").write_text("<svg xmlns='x'><script/></svg>")
    broken = root / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("<script>")
    result = run_cli("report", root, "-o", folder / "report.html")
    assert result.exit_code == 0, result.stderr
    return folder / "report.html"


def test_the_page_is_well_formed(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.errors == []
    for tag in ("html", "head", "title", "body", "main", "h1"):
        assert page.tags[tag] == 1, tag
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert [name for name, n in Counter(ids).items() if n > 1] == []
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert {a or b for a, b in used} <= set(ids)
    assert page.tags["svg"] == page.tags["figure"] - 1
    labels = [tag for tag, name, _ in page.attributes if name == "aria-label"]
    assert labels.count("svg") == page.tags["svg"]


def test_the_page_needs_nothing_else(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:image/svg+xml;base64,")), (tag, value)
    # Names of XML vocabularies apart, no address is on the page.
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in text


def test_the_page_tells_everything(report):
    page = Page(report.read_text(encoding="utf-8"))
    words = " ".join(page.text.split())
    assert "Results in results <b>&amp;" in words
    assert "51 runs: 51 done." in words
    assert "Not counted left out" in words
    assert "SYNTHETIC images: acc_te after the last epoch" in words
    assert "Made on 8 x NVIDIA A100 with python 3.11.7, eqcifar 0.1.0" in words
    assert "arch resnet18, vgg, wrn28-10 dataset" in words
    assert "epochs 20 not the default" in words
    assert words.count("for seed in 0 1 2 3; do eqcifar train --arch") == 12
    assert "tr_hess" in words
    assert "prefers-color-scheme: dark" in report.read_text(encoding="utf-8")


def test_measures_are_down_and_architectures_and_splits_across(tmp_path):
    for arch, lr, seed in itertools.product(("vgg", "resnet18"), (0.1, 0.2), (0, 1)):
        trace = 10.0 * lr + seed
        measures = {"examples": 100, "examples_te": 50}
        for end in ("", "_te"):
            measures |= {f"tr_hess{end}": trace, f"tr_hess{end}_se": 0.1}
            measures |= {f"tr_ggn{end}": trace, f"tr_ggn{end}_se": 0.1}
            measures |= {f"lambda_1{end}": 2.0, f"lambda_1{end}_se": 0.2}
            measures |= {f"lambda_2{end}": 1.0, f"lambda_2{end}_se": 0.1}
            measures |= {f"tr_ntk{end}": math.nan, f"tr_ntk{end}_se": math.nan}
        config = TrainConfig(arch=arch, lr=lr, epochs=1, seed=seed)
        write_run(tmp_path, config, 0.9, sharpness=measures)
    (table,) = tabulate(read_records(tmp_path))
    grid = measures_table(table, sharpness_columns([table]))
    assert grid.columns == [
        *("measure", "lr", "images", "resnet18, train", "resnet18, test"),
        *("vgg, train", "vgg, test"),
    ]
    # What is equal shares a row, and what was not measured has none.
    names = [row[0] for row in grid.rows]
    assert list(dict.fromkeys(names)) == ["tr_hess = tr_ggn", "lambda_1", "lambda_2"]
    assert len(names) == 6
    first, second = grid.rows[:2]
    assert first[1:3] == ["0.1", "train 100, test 50"]
    assert set(first[3:]) == {"1.50 ± 0.71, se 0.071 (2)"}
    assert second[1] == "0.2"
    named = dict(legend(table, sharpness_columns([table])))
    assert named["tr_hess"] == "trace of the Hessian of the mean mse loss"
    assert "lambda_1 to lambda_2" in named
    page = tmp_path / "report.html"
    assert run_cli("report", tmp_path, "-o", page).exit_code == 0
    words = " ".join(Page(page.read_text(encoding="utf-8")).text.split())
    assert words.count("trace of the Hessian of the mean mse loss") == 1
    assert "tr_hess on 100 images; a point is a run, n = 8; bars" in words
    assert "tr_ggn: the same numbers in these runs." in words
    assert "against tr_ggn" not in words


def test_names_are_escaped(tmp_path):
    name = '<img src=x onerror=alert(1)>"\'&$\\input{a}$ id="a" #010203'
    config = TrainConfig(dataset=f"/{name}", epochs=2)
    run = write_run(tmp_path, config, 0.9, path=tmp_path / "run")
    (run.path / "<b>&.svg").write_text("<svg xmlns='x'/>")
    page = tmp_path / "report.html"
    assert run_cli("report", tmp_path, "-o", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<b>" not in text
    found = Page(text)
    assert found.errors == []
    assert name in found.text
    assert [value for tag, key, value in found.attributes if key == "alt"] == [
        f"<b>& of arch=resnet18, dataset={name}, seed 0"
    ]


def test_a_link_out_of_a_run_is_not_on_the_page(tmp_path):
    run = write_run(tmp_path / "results", TrainConfig(epochs=2), 0.9)
    private = tmp_path / "private.svg"
    private.write_text("<svg xmlns='x'><!-- private --></svg>")
    (run.path / "sharpness_plane.svg").symlink_to(private)
    (run.path / "sharpness_dead.svg").symlink_to(tmp_path / "nowhere.svg")
    (run.path / "sharpness_line.svg").write_text("<svg xmlns='x'><!-- own --></svg>")
    page = tmp_path / "report.html"
    result = run_cli("report", tmp_path / "results", "-o", page)
    assert result.exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert base64.b64encode(b"<!-- private").decode()[:12] not in text
    assert re.findall(r"base64,([^\"]+)", text) == [
        base64.b64encode((run.path / "sharpness_line.svg").read_bytes()).decode()
    ]
    assert "sharpness_plane.svg is a link out of its run's folder" in result.stderr
    assert str(private) not in text


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(seed=3),
        TrainConfig(
            arch="wrn16-4",
            dataset="my images/it's",
            augment=False,
            mean=(0.1, 0.25, 1 / 3),
            lr=1e-5,
            loss="ce",
            bn_group=125,
            seed=7,
        ),
    ],
)
def test_the_command_makes_the_same_configuration(config):
    program, verb, *words = shlex.split(train_command(config, [config.seed]))
    assert (program, verb) == ("eqcifar", "train")
    assert parse_options(Config, *words)[0] == config


def test_a_command_for_several_seeds_is_shell(tmp_path):
    command = train_command(TrainConfig(dataset="a b"), [2, 0])
    stub = 'eqcifar() { printf "%s|" "$@"; echo; }; '
    printed = subprocess.run(
        ["sh", "-c", stub + command], capture_output=True, text=True, check=True
    ).stdout
    words = "train|--arch|resnet18|--dataset|a b|--seed|"
    assert printed == f"{words}0|\n{words}2|\n"


def test_what_was_made_in_python_has_no_command(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=2), 0.8)
    config = TrainConfig(arch="mine.Net", epochs=2, loss="mine.absolute<b>")
    write_run(tmp_path, config, 0.9, about={"noise": 0.2}, in_python=True)
    page = tmp_path / "report.html"
    assert run_cli("report", tmp_path, "-o", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("eqcifar train --arch") == 1
    assert "--loss" not in text
    words = " ".join(Page(text).text.split())
    said = "mine.Net with the loss mine.absolute<b> on cifar10, noise=0.2"
    assert f"Made in Python, no command gives it: {said} ." in words
    assert "noise –, 0.2" in words or "noise 0.2, –" in words


def test_commands_of_the_originals_folders_train_its_networks(tmp_path):
    networks = {
        **{"vgg_0_0.8_1000_3": "vgg", "resnet_0.4_0.1_1000_3": "original-resnet18"},
        "wrn_0.4_0.8_1000_3": "original-wrn28-10",
    }
    for name in networks:
        (tmp_path / "cifar100" / name).mkdir(parents=True)
        log = tmp_path / "cifar100" / name / "log.tsv"
        write_tsv(log, [{"epoch": 200, "acc_tr": 0.9, "acc_te": 0.5}])
    page = tmp_path / "report.html"
    result = run_cli("report", tmp_path, "--layout", "original", "-o", page)
    assert result.exit_code == 0, result.stderr
    commands = re.findall("<pre><code>(eqcifar train .*)</code>", page.read_text())
    given = [parse_options(Config, *shlex.split(line)[2:])[0] for line in commands]
    assert {config.arch for config in given} == set(networks.values())
    original = TrainConfig(**recipe_options("original"))
    for config in given:
        assert (config.dataset, config.seed, config.epochs) == ("cifar100", 3, 200)
        made = "arch", "dataset", "mixup", "lr", "seed"
        assert original == dataclasses.replace(
            config, **{name: getattr(original, name) for name in made}
        )


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=2), 0.9)
    result = run_cli("report", tmp_path, "-o", tmp_path / "none" / "report.html")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "cannot write" in result.stderr


@pytest.mark.skipif(_CHROMIUM is None, reason="needs Chromium to look at the page")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_screenshots(report, tmp_path, width, scheme):
    # A window is never as narrow as a phone: the page goes into a frame.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0;background:#f0f"><iframe src="{report.as_uri()}" '
        f'style="border:0;width:{width}px;height:1500px"></iframe>'
    )
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            *(str(_CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={max(width, 600)},1500",
            f"--screenshot={picture}",
            frame.as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=180,
    )
    image = Image.open(picture).convert("RGB").crop((0, 0, width, 1500))
    colours = {c: n for n, c in image.getcolors(width * 1500) or []}
    ground = {"light": (255, 255, 255), "dark": (20, 24, 29)}[scheme]
    text = {"light": (27, 31, 36), "dark": (228, 232, 237)}[scheme]
    assert image.getpixel((2, 2)) == ground
    assert colours[ground] > 0.3 * width * 1500
    assert colours[text] > 500
    # Nothing is wider than the page, whose margin stays empty.
    margin = image.crop((width - 12, 0, width, 1500))
    assert margin.getcolors() == [(12 * 1500, ground)]
