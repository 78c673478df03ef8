"""What a notebook shows: the numbers of the record, in what an untrusted notebook keeps, readable in Chromium."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from building.browser import IN_CHROMIUM
from building.records import (
    connected_profile,
    course,
    few_examples,
    grid,
    layered,
    model,
    monitored,
    network,
    predicted,
    profile_sets,
    sampled_at,
    sixteen,
    small_monitored,
    small_training,
    trained,
    training_sets,
)
from hypothesis import given
from PIL import Image

from propscope.comparison import compare
from propscope.diagnosis import diagnose
from propscope.records import Alarm, MonitoredRun, NetworkProfile, ProfileSet, TrainingSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.records.width_check import WidthCheck, WidthRow
from propscope.report.sparkline import sparkline, trend
from propscope.report.svg import COLORS, QUIET, SEVERITY

HOSTILE = '</td><script>alert("&")</script>\u202e\x1b\ud800'


def exploding(name="he_normal", **labels):
    return replace(network([1e4**at for at in range(4)], [1.0] * 4), labels={"initializer": name, **labels})


def width_check(**of):
    sizes = np.array([[[16.0], [32.0], [64.0]]] * 2)
    rows = (
        WidthRow("lift", "Linear", "input", True, "size", (16, 32, 64), sizes, 0, (0.0, 0.0)),
        WidthRow("head", "Linear", "output", True, "size", (16, 32, 64), sizes, 0, (1.0, 1.0)),
        WidthRow("lift.weight", "Linear", "", True, "size", (16, 32, 64), sizes, 0, parameter=True),
    )
    return WidthCheck("net.py:build", (16, 32, 64), 2, 0, "adam", 0.001, "cotangent", rows, **of)


def watched():
    """A run of 40 samples whose loss turns to NaN, with an alarm."""
    run = sampled_at(range(0, 400, 10), sites=6, rms=lambda step, place: 1 + place + step / 100)
    losses = [1 / (1 + step) if step < 300 else math.nan for step in range(400)]
    alarm = Alarm(300, 290, "non-finite loss", "fc.3", severity="broken", message="the loss is not finite")
    return replace(run, steps=monitored(losses).steps, alarms=(alarm,))


def compared(first, second):
    return replace(compare(first, second), names=("a.h5", HOSTILE))


def trials():
    before, after = (State(diagnose(one), 1.0, 1.0) for one in (exploding(), network([1.0] * 4, [1.0] * 4)))
    remedy = next(iter(diagnose(exploding()).findings)).remedy
    return RemedyTrials(before, (Trial(remedy, before, after, lines=("a = 1",)),))


RECORDS = {
    "profile": exploding,
    "predicted": lambda: predicted(layered([1.0] * 4, [1.0] * 4)),
    "recurrent": lambda: replace(model(6), time_courses=(course(), course(module="rnn" * 30))),
    "nothing seen": lambda: NetworkProfile(()),
    "set": lambda: grid(seeds=2, depths=(4,)),
    "empty set": lambda: ProfileSet(()),
    "run": watched,
    "small run": small_monitored,
    "run without samples": lambda: monitored([2.0, 1.0]),
    "samples": lambda: MonitoredRun(small_monitored().profiles),
    "training": lambda: small_training()[0],
    "trainings": small_training,
    "no training": lambda: TrainingSet(()),
    "finding": lambda: diagnose(exploding()).findings[0],
    "diagnosis": lambda: diagnose(exploding()),
    "diagnoses": lambda: diagnose(grid(seeds=2, depths=(4,))),
    "trials": trials,
    "width check": lambda: width_check(expect="mup", source="a paper"),
    "width check of nothing": width_check,
    "comparison": lambda: compared(exploding(), network([1.0] * 4)),
    "comparison of the same": lambda: compared(exploding(), exploding()),
}
every_record = pytest.mark.parametrize("record", RECORDS)

# What Jupyter's sanitizer keeps of an output that is not trusted, as far as it is used here:
# @jupyterlab/apputils 4.7, sanitizer.ts. It drops any other tag, attribute or property, and leaves the text of a tag.
KEPT = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "p", "b", "img", "samp",
        "nobr", "br"}  # fmt: skip
PROPERTIES = {
    "color": r"#[0-9a-f]{6}",
    "font-weight": "bold",
    "font-family": "monospace",
    "text-align": "left|right",
    "caption-side": "top",
    "white-space": "pre-wrap",
    "overflow-wrap": "break-word",
    "overflow": "auto",
    "max-height": r"\d+px",
    "max-width": r"\d+%",
    "margin": r"(\d+(px)? ?){1,4}",
    "padding": r"(\d+px ?){1,4}",
    "border-left": r"\d+px solid #[0-9a-f]{6}",
}


class Elements(HTMLParser):
    """The tags, attributes and texts of HTML, and how deep the folded ones lie."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.folded, self.shown = [], [], [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "details" in self.open and "summary" not in self.open:
            self.folded += data
        else:
            self.shown += data


def html_of(record):
    return record._repr_html_()


def pictures(text):
    return [base64.b64decode(each).decode() for each in re.findall(r"svg\+xml;base64,([^\"]*)", text)]


def stroked(picture, color):
    root = ElementTree.fromstring(picture)
    return [each.get("d") for each in root.iter("{http://www.w3.org/2000/svg}path") if each.get("stroke") == color]


@every_record
def test_an_untrusted_notebook_keeps_all_of_it(record):
    found = Elements(html_of(RECORDS[record]()))
    assert found.open == []
    assert set(found.tags) <= KEPT
    for tag, name, value in found.attributes:
        if name == "style":
            for declared in value.split(";"):
                named, _, given = declared.partition(":")
                assert re.fullmatch(PROPERTIES[named], given), declared
        elif name == "src":
            assert value.startswith("data:image/svg+xml;base64,")
        else:
            assert (tag, name) in {("img", "alt"), ("img", "width"), ("img", "height")}


@every_record
def test_pictures_are_whole_documents_without_a_way_out(record):
    for picture in pictures(html_of(RECORDS[record]())):
        root = ElementTree.fromstring(picture)
        assert {each.tag.partition("}")[2] for each in root.iter()} <= {"svg", "path", "text", "circle"}
        assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
@given(profile_sets | training_sets)
@few_examples
def test_any_record_is_shown(record):
    assert html_of(record).startswith("<div>")
    if len(record):
        assert Elements(html_of(record[0])).open == []


def test_the_verdict_stands_first_in_its_colour_and_the_inputs_below_it():
    found = html_of(exploding())
    assert f'<div style="color:{SEVERITY["broken"]};font-weight:bold">✕ broken: exploding forward' in found
    shown = Elements(html_of(connected_profile())).shown
    assert shown.index("cause: ") < shown.index("layers.0: 7,1 float32") < shown.index(" site, ")


def test_every_site_has_its_sparklines():
    profile = model(6)
    found = html_of(profile)
    for site in profile.sites:
        for summary in (site.forward, site.backward):
            assert sparkline(summary.histogram).replace(" ", "&nbsp;") in found
    assert found.count("<samp>") == 2 * len(profile.sites)


def test_the_curves_of_a_profile_have_a_point_for_each_signal_site():
    profile = exploding()
    forward, backward = pictures(html_of(profile))
    for picture in (forward, backward):
        (path,) = stroked(picture, COLORS[0])
        assert path.count(",") == len(profile.signal_places)
    assert "1e6" in forward
    assert forward.count("✕") == 1
    assert not [path for path in stroked(forward, QUIET) if "L" in path]


def test_theory_is_dashed_beside_the_curve():
    found = html_of(predicted(layered([1.0] * 4, [1.0] * 4)))
    assert "dashes: infinite-width theory" in found
    assert all(len([path for path in stroked(picture, QUIET) if "L" in path]) == 1 for picture in pictures(found))
    assert "dashes" not in html_of(exploding())


def test_a_direction_that_was_not_seen_has_no_picture():
    assert len(pictures(html_of(layered([1.0, 2.0])))) == 1
    assert pictures(html_of(NetworkProfile(()))) == []


def test_notes_are_folded():
    found = Elements(html_of(grid(seeds=2, depths=(4,))))
    assert "For causes and remedies" in found.folded
    assert "For causes and remedies" not in found.shown


def test_a_row_of_a_set_names_its_curve_and_draws_its_course():
    profiles = grid(seeds=2, depths=(4,))
    found = html_of(profiles)
    for at, members in enumerate(profiles.groups("seed").values()):
        assert f'<td style="text-align:left;color:{COLORS[at]};font-weight:bold">{at + 1}</td>' in found
        assert len(members) == 2
    forward, backward = pictures(found)
    assert all(f">{key}<" in picture for picture in (forward, backward) for key in range(1, 5))
    one = layered([1.0, 4.0, 16.0], [1.0, 1.0, 1.0])
    assert f"<samp>{trend(one.signal_rms('forward'))}</samp>" in html_of(ProfileSet((one,)))


def test_of_many_networks_the_first_sixteen_are_drawn():
    many = ProfileSet.of(layered([1.0, 2.0], [1.0, 1.0], initializer=str(at), seed=0) for at in range(20))
    found = html_of(many)
    assert "the first 16 of 20 networks are drawn" in found
    assert found.count("<tr>") == 21
    assert ">17<" not in pictures(found)[0]


def test_a_run_shows_its_losses_its_alarm_and_how_its_sites_went():
    run = watched()
    found = html_of(run)
    loss, _, forward, _ = pictures(found)
    assert ">Loss<" in loss
    assert loss.count("✕") == 1
    assert "at step 390" in forward
    over = run.over_steps("forward_rms")
    assert f"<samp>{trend(over.of('fc.3'))}</samp>" in found
    assert "✕ broken: non-finite loss" in found


def test_a_training_shows_both_its_data_and_a_set_each_run():
    run = small_training()[0]
    loss, accuracy = pictures(html_of(run))
    assert len(stroked(loss, COLORS[0])) == len(stroked(loss, COLORS[1])) == 1
    assert ">Accuracy<" in accuracy
    several = small_training()
    groups = list(several.groups("seed").values())
    loss = pictures(html_of(several))[0]
    assert [len(stroked(loss, COLORS[at])) for at in range(len(groups))] == [len(members) for members in groups]
    diverged = trained([2.0, 1.0, math.nan], options={"stability": "diverged", "diverged_at": 7})
    assert "✕ diverged at step 7" in html_of(diverged)


def test_a_diagnosis_has_a_box_for_each_finding():
    diagnosis = diagnose(exploding())
    found = html_of(diagnosis)
    assert found.count("border-left") == 1 + sum(each.severity != "note" for each in diagnosis.findings)
    assert "<b>why:</b>" in found
    several = diagnose(grid(seeds=2, depths=(20,)))
    assert several.networks
    assert "✕ broken: " in html_of(several)
    assert "<b>change:</b>" in html_of(several)


def test_a_remedy_that_helped_is_green():
    assert f'color:{SEVERITY["healthy"]};font-weight:bold">✓ broken -&gt; healthy' in html_of(trials())


def test_a_comparison_says_first_whether_the_two_are_the_same():
    found, same = compared(exploding(), network([1.0] * 4)), compared(exploding(), exploding())
    assert f'color:{SEVERITY["strained"]};font-weight:bold">▲ different: first ' in html_of(found)
    assert f'color:{SEVERITY["healthy"]};font-weight:bold">✓ the same: ' in html_of(same)
    assert "<div" in html_of(same)
    assert ">second: " in html_of(found)
    forward, _ = pictures(html_of(found))
    assert len(stroked(forward, COLORS[0])) == len(stroked(forward, COLORS[1])) == 1
    assert ">1<" in forward


def test_of_many_sites_those_that_are_marked_and_others_evenly_are_shown():
    rms = [1.0] * 80 + [1e4**at for at in range(4)] + [1e12] * 160
    profile = network(rms)
    found = html_of(profile)
    assert found.count("<tr>") < 205
    assert f"of {len(rms)} sites" in Elements(found).shown
    assert ">layers.81.linear<" in found
    assert len(found) < 150_000
    (forward, _) = pictures(found)
    assert stroked(forward, COLORS[0])[0].count(",") == len(rms)
    long = trained([1.0] * 1000, seed=0)
    assert html_of(long).count("<tr>") == 101
    assert "of 1000 epochs 100 are here" in html_of(long)


def test_a_width_check_colours_what_is_not_as_expected():
    found = html_of(width_check(expect="mup", source="a paper"))
    assert f'color:{SEVERITY["broken"]};font-weight:bold">+1.00±0.00!' in found
    (size,) = pictures(found)
    assert len(stroked(size, SEVERITY["broken"])) == len(stroked(size, SEVERITY["healthy"])) == 1
    assert all(f">{width}<" in size for width in (16, 32, 64))
    assert "✕ failed" in found
    assert "✓" not in html_of(width_check())


@pytest.mark.parametrize("make", [lambda: model(60), sixteen], ids=["60 sites", "16 pairs"])
def test_it_is_small(make):
    assert len(html_of(make())) < 45_000


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: replace(model(3), labels={HOSTILE: HOSTILE}, time_courses=(course(module=HOSTILE),)),
        lambda: ProfileSet((exploding(HOSTILE, seed=0), exploding("b", seed=0))),
        lambda: TrainingSet(tuple(trained([2.0, 1.0], initializer=name, seed=0) for name in (HOSTILE, "b"))),
        lambda: diagnose(ProfileSet((exploding(HOSTILE, seed=0), exploding("b", seed=0)))),
        lambda: replace(watched(), alarms=(replace(watched().alarms[0], kind=HOSTILE, message=HOSTILE),)),
        lambda: replace(width_check(), title=HOSTILE),
    ],
    ids=["profile", "set", "trainings", "diagnosis", "run", "width check"],
)  # fmt: skip
def test_a_strangers_name_is_text(hostile):
    found = html_of(hostile())
    assert set(Elements(found).tags) <= KEPT
    assert "&lt;script&gt;alert(&quot;&amp;&quot;)" in found
    found.encode()
    assert not re.search("[\u202e\x1b]", found + "".join(pictures(found)))


@pytest.mark.parametrize(("width", "paper", "ink"), [(950, "#ffffff", "#000"), (420, "#111111", "#fff")])
class TestInChromium:
    pytestmark = IN_CHROMIUM

    def test_it_fits_and_its_pictures_are_drawn(self, chromium, width, paper, ink):
        asked, said = [], []
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url) if request.url[:5] != "data:" else None)
        page.on("console", lambda message: said.append(message.text))
        shown = {name: html_of(make()) for name, make in RECORDS.items()}
        sections = "".join(f'<section id="{name}">{each}</section>' for name, each in shown.items())
        page.set_content(f'<body style="background:{paper};color:{ink}">{sections}')
        wide = "(all) => all.filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.id)"
        assert page.locator("section").evaluate_all(wide) == []
        images = page.locator("img")
        assert images.count() == sum(map(len, map(pictures, shown.values())))
        boxes = images.evaluate_all(
            "(all) => all.map((each) => each.getBoundingClientRect())"
            ".map((box) => [box.left, box.top, box.right, box.bottom])"
        )
        seen = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        page.close()
        assert (asked, said) == ([], [])
        for left, top, right, bottom in boxes:
            assert right - left > 250
            # Paper, text and lines have more colours than these.
            assert seen.crop((int(left), int(top), int(right), int(bottom))).getcolors(3) is None
