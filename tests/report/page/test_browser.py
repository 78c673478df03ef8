"""The page in a real browser: no error, no request, the numbers of the file, and keys that do what a mouse does."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from building.browser import IN_CHROMIUM
from building.records import (
    connected_profile,
    course,
    grid,
    mlp,
    model,
    monitored,
    sampled_at,
    site,
    small_monitored,
    small_training,
)

from propscope.records import Alarm, NetworkProfile, Parent, ProfileSet, Site, TensorSummary
from propscope.report.page import page_document, page_html

pytestmark = IN_CHROMIUM


def resnet():
    """A stem, eight residual blocks of two sites each of which one is far too large, and a head."""
    rng = np.random.default_rng(0)

    def site(name, kind, role, scale, *parents):
        return Site(
            name,
            kind,
            role,
            (16, 8),
            activation="ReLU" if role == "pre-activation" else "",
            forward=TensorSummary.of(rng.normal(0, scale, (16, 8)).astype(np.float32)),
            backward=TensorSummary.of(rng.normal(0, 1e-3, (16, 8)).astype(np.float32)),
            parents=tuple(Parent(parent) for parent in parents),
        )

    sites = [site("input", "input", "input", 1.0), site("stem", "Linear", "pre-activation", 1.0, "input")]
    before = "stem"
    for block in range(8):
        size = 1e7 if block >= 4 else 1.0
        sites.append(site(f"blocks.{block}.fc", "Linear", "pre-activation", size, before))
        sites.append(site(f"blocks.{block}.add", "add", "residual", size, before, f"blocks.{block}.fc"))
        before = f"blocks.{block}.add"
    sites.append(site("head", "Linear", "pre-activation", 1e7, before))
    return NetworkProfile(tuple(sites))


def watched():
    """A run of 40 samples whose loss turns to NaN, with an alarm."""
    run = sampled_at(range(0, 400, 10), sites=6, rms=lambda step, place: 1 + place + step / 100)
    losses = [1 / (1 + step) if step < 300 else float("nan") for step in range(400)]
    alarm = Alarm(300, 290, "non-finite loss", "fc.3", severity="broken", message="the loss is not finite. Go back")
    return replace(run, steps=monitored(losses).steps, alarms=(alarm,))


@pytest.fixture
def opened(chromium, tmp_path):
    """A function that opens the page of a record, and after the test shows that nothing was asked for or went wrong."""
    contexts, asked, said = [], [], []

    def opens(record, *, width=1400, scheme="light", title="run.h5", script=True, against=None):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(page_html(record, title=title, against=against), encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
        page.on("request", lambda request: asked.append(request.url) if request.url != path.as_uri() else None)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        if script:
            page.wait_for_selector("html[data-ready=yes]")
            # What is drawn at the width that it has is drawn a frame later.
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        if os.environ.get("PROPSCOPE_SCREENSHOTS"):
            page.screenshot(
                path=f"{os.environ['PROPSCOPE_SCREENSHOTS']}/{path.stem}-{width}-{scheme}.png", full_page=True
            )
        return page

    yield opens
    for context in contexts:
        context.close()
    assert (asked, said) == ([], [])


RECORDS = {
    "network": resnet,
    "grid": lambda: grid(("he_normal", "zeros"), ("relu", "tanh"), seeds=2, depths=(4,), width=8, batch=4),
    "run": watched,
    "small run": small_monitored,
    "run without samples": lambda: monitored([2.0, 1.0]),
    "trainings": small_training,
    "nothing seen": lambda: NetworkProfile(()),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("record", RECORDS)
def test_it_opens_without_a_word_and_fits_the_width(opened, record, width, scheme):
    page = opened(RECORDS[record](), width=width, scheme=scheme)
    assert page.locator("h1").inner_text() == "run.h5"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


def numbers_shown(page):
    """Every figure of the site that is shown, by column."""
    cells = page.locator(".detail td[data-column]")
    return dict(
        cells.evaluate_all("cells => cells.map((cell) => [cell.dataset.column, JSON.parse(cell.dataset.value)])")
    )


def test_a_click_on_the_first_bad_site_shows_the_numbers_of_the_file(opened):
    profile = resnet()
    (found,) = page_document(profile)["networks"]
    page = opened(profile)
    assert [*found["lines"][1:], *found["inputs"]] == page.locator(".verdict p").all_inner_texts()[1:-1]
    page.click("button.first-bad")
    name = page.locator(".detail .site-name").inner_text()
    assert name.endswith(found["first_bad"])
    at, columns = found["sites"]["columns"]["name"].index(found["first_bad"]), found["sites"]["columns"]
    shown = numbers_shown(page)
    assert shown["forward_rms"] == profile.sites[at].forward.rms
    assert shown["backward_mean"] == profile.sites[at].backward.mean
    assert {name: columns[name][at] for name in shown if name in columns} == {
        name: value for name, value in shown.items() if name in columns
    }
    assert len(shown) > 15
    assert page.locator(".detail svg rect.bar-f").count() > 5
    page.locator(".detail li button", has_text=profile.sites[at].parents[0].name).first.click()
    assert page.locator(".detail .site-name").inner_text().endswith(profile.sites[at].parents[0].name)


def test_every_site_opens_from_the_curve_the_graph_and_the_table(opened):
    page = opened(resnet())
    names = page_document(resnet())["networks"][0]["sites"]["columns"]["name"]
    curve = page.locator("svg.plot").first
    curve.focus()
    page.keyboard.press("End")
    assert page.locator(".readout").first.inner_text().startswith("head: rms")
    page.keyboard.press("Enter")
    assert page.locator(".detail .site-name").inner_text().endswith("head")
    page.locator(".graph .node", has_text="stem").focus()
    page.keyboard.press("Enter")
    assert page.locator(".detail .site-name").inner_text() == "stem"
    assert page.locator(".graph .node.chosen").count() == 1
    page.locator(".sites td button", has_text=names[5]).first.click()
    assert page.locator(".detail .site-name").inner_text().endswith(names[5])
    assert page.locator(".sites tr.chosen").count() == 1


@pytest.mark.parametrize("first, last", [(0.06, 0.6), (3.0, 3.1), (0.9, 1.3)])
def test_a_logarithmic_axis_of_less_than_two_decades_has_round_numbers(opened, first, last):
    sites = [site(str(at), rms=rms) for at, rms in enumerate(np.geomspace(first, last, 6))]
    page = opened(model(sites))
    drawn = page.locator("svg:has(path.line), svg:has(polyline)").first.locator("text.tick[text-anchor=end]")
    ticks = drawn.all_text_contents()
    assert ticks
    assert {tick.strip("0.") for tick in ticks} <= {"1", "2", "5"}


def test_modules_open_and_close(opened):
    page = opened(resnet())
    page.get_by_label("modules").select_option("0")
    boxes = page.locator(".graph .node")
    assert boxes.count() == 4
    module = boxes.nth(2)
    assert "blocks" in module.text_content()
    assert "is-broken" in module.get_attribute("class")
    module.focus()
    page.keyboard.press("Enter")
    assert boxes.count() == 11
    page.locator(".open button").first.click()
    assert boxes.count() == 4
    page.get_by_label("modules").select_option("all")
    assert boxes.count() == len(resnet().sites)
    assert page.locator(".graph path.edge").count() == sum(len(site.parents) for site in resnet().sites)


def test_the_table_sorts_and_filters(opened):
    page = opened(resnet())
    rows = page.locator(".sites tbody tr")
    assert rows.count() == len(resnet().sites)
    page.get_by_label("filter sites").fill("BLOCKS.3")
    assert rows.count() == 2
    page.get_by_label("filter sites").fill("")
    page.locator(".sites th button", has_text="rms").first.click()
    largest = max(resnet().sites, key=lambda site: site.forward.rms)
    assert largest.name in rows.first.inner_text()
    assert page.locator(".sites th[aria-sort=descending]").count() == 1
    page.get_by_label("only what is marked").check()
    assert 0 < rows.count() < len(resnet().sites)


def test_a_cell_of_a_grid_opens_its_network(opened):
    profiles = RECORDS["grid"]()
    page = opened(profiles)
    cells = page.locator(".cells button")
    assert cells.count() == 4
    # The first of the worst is open.
    networks = page_document(profiles)["networks"]
    worst = next(network for network in networks if network["verdict"] == "broken")
    assert networks[0]["verdict"] != "broken"
    assert page.locator("section.network h2").first.inner_text() == worst["name"]
    assert page.locator(".cells button[aria-pressed=true]").get_attribute("title") == worst["lines"][0]
    page.get_by_label("figure").first.select_option("forward_factor")
    cells.nth(3).click()
    assert page.locator("section.network h2").first.inner_text() == page_document(profiles)["networks"][3]["name"]
    assert page.locator(".cells button[aria-pressed=true]").count() == 1


def test_the_slider_and_the_alarms_set_the_step(opened):
    page = opened(watched())
    now = page.locator(".bar strong")
    assert now.inner_text() == "step 390"
    page.locator(".alarms td button", has_text="300").click()
    assert now.inner_text() == "step 300"
    slider = page.get_by_label("sample", exact=True).first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert now.inner_text() == "step 290"
    assert "at step 290" in page.locator(".two h3", has_text="Forward at").inner_text()
    page.get_by_label("map over steps").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("p.readout", has_text="step 290, fc.1: 4.9").count() == 1
    assert page.locator("canvas").evaluate(
        "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size > 20"
    )


def test_a_parameter_shows_its_histograms_and_the_numbers_of_the_file(opened):
    profile = mlp("he_normal", "relu", depth=3, width=8, batch=8, seed=0)
    at, parameter = next((at, each) for at, each in enumerate(profile.parameters) if each.gradient is not None)
    used = {parameter.name.removesuffix(".weight"): (parameter.name,)}
    profile = replace(profile, sites=tuple(replace(each, parameters=used.get(each.name, ())) for each in profile.sites))
    page = opened(profile)
    page.locator(".parameters > summary").click()
    page.locator(".parameters td button", has_text=parameter.name).first.click()
    assert page.locator(".detail .site-name").inner_text() == parameter.name
    shown = numbers_shown(page)
    assert shown["value_rms"] == parameter.value.rms
    assert shown["value_norm"] == parameter.value_norm
    assert shown["gradient_mean"] == parameter.gradient.mean
    assert page.locator(".parameters tr.chosen").count() == 1
    for color, part in (("bar-f", "value"), ("bar-b", "gradient")):
        bars = page_document(profile)["networks"][0]["parameter_histograms"][part][at]
        assert page.locator(f".detail rect.{color}").count() == sum(share > 0 for share in bars["shares"])
    user = next(site for site in profile.sites if parameter.name in site.parameters)
    page.locator(".detail li button", has_text=user.name).first.click()
    assert page.locator(".detail .site-name").inner_text().endswith(user.name)
    assert page.locator(".parameters tr.chosen").count() == 0
    page.locator(".detail td button", has_text=parameter.name).first.click()
    assert page.locator(".detail .site-name").inner_text() == parameter.name


def recurrent():
    """Two layers over time, the second one without gates, and a fault of the first layer's module."""
    first = course()
    return replace(model(3), time_courses=(first, replace(course(module="plain"), cell=None, gates=(), weights=())))


def test_recurrent_layers_are_drawn_over_time(opened):
    profile = recurrent()
    first, second = profile.time_courses
    page = opened(profile)
    titles = page.locator("h3", has_text="state")
    assert titles.all_inner_texts() == [
        "Values: the cell state",
        "Gradient: of the loss with respect to the cell state",
    ]
    page.locator(".figure", has_text="Values: the cell state").locator("svg.plot").focus()
    page.keyboard.press("Home")
    assert page.locator("p.readout", has_text=f"step 1: rms {first.cell.forward[0]:g}").count() == 1
    assert page.locator(".figure", has_text="Gates: mean").locator("path.line").count() == len(first.gates)
    assert page.locator(".figure", has_text="Gates: mean").locator(".line-key").all_text_contents() == [
        "1",
        "2",
        "3",
        "4",
    ]
    page.get_by_label("layer").select_option("1")
    assert titles.first.inner_text() == "Values: the hidden state"
    assert page.locator(".figure", has_text="Gates").count() == 0
    assert second.label in page.get_by_label("layer").locator("option:checked").inner_text()


def test_the_first_bad_module_opens_the_first_of_its_outputs(opened):
    sites = (site("embed", "Embedding"), site("rnn[0]", "LSTM"), site("rnn[1][0]", "LSTM"), site("head"))
    grows = replace(course(forward=1.9, backward=1.9), layer=1, reverse=False)
    profile = NetworkProfile(sites, time_courses=(grows,))
    (found,) = page_document(profile)["networks"]
    assert found["first_bad"] == "rnn"
    page = opened(profile)
    page.click("button.first-bad")
    assert page.locator(".detail .site-name").inner_text().endswith("rnn[0]")


def test_on_a_telephone_one_comes_back_to_where_one_was(opened):
    page = opened(resnet(), width=420)
    page.locator("button.first-bad").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("scrollY") > 900
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.activeElement.className") == "plain first-bad"


def test_an_alarm_at_a_loss_that_is_nan_is_drawn(opened):
    page = opened(watched())
    loss = page.locator(".figure", has_text="Loss").first
    assert "✕" in loss.locator("svg.plot text.bad").all_text_contents()


def test_the_lines_of_trainings_are_told_by_number(opened):
    page = opened(small_training())
    names = page.locator(".key").first.locator("li").all_inner_texts()
    assert [name.strip() for name in names] == ["1 relu + he_normal", "2 relu + zeros"]
    assert page.locator(".figure", has_text="Training loss").locator(".line-key").all_text_contents() == ["1", "2"]


@pytest.mark.parametrize("width", [1400, 420])
def test_a_comparison_has_both_signals_and_a_ratio_for_each_site(opened, width):
    from propscope import compare

    def larger(each):
        name = {"blocks.2.fc": "blocks.2.<b>"}.get(each.name, each.name)
        times = 2.0 if each.name in ("blocks.3.fc", "head") else 1.0
        return replace(each, name=name, forward=replace(each.forward, std=each.forward.std * times, mean=0.0))

    first = resnet()
    first = replace(first, sites=tuple(replace(each, forward=replace(each.forward, mean=0.0)) for each in first.sites))
    second = replace(first, sites=tuple(map(larger, first.sites)))
    page = opened(second, against=replace(compare(first, second), names=("a.h5", "run.h5")), width=width)
    section = page.locator("#against")
    assert section.locator("h2").inner_text() == "Against a.h5"
    assert "different: first forward at blocks.3.fc" in section.locator(".verdict").inner_text()
    assert section.locator("svg.plot").count() == 2
    rows = {row[0]: row for row in section.locator("tbody").first.locator("tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))")}  # fmt: skip
    assert (rows["blocks.3.fc"][3], rows["stem"][3]) == ("2", "1")
    assert "forward rms x2.00" in rows["blocks.3.fc"][-1]
    assert "blocks.2.<b> (was blocks.2.fc)" in rows
    assert section.locator(".bad").count() == sum("forward" in row[-1] for row in rows.values())
    if width == 420:
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("record", ["network", "run", "trainings"])
def test_on_paper_nothing_is_cut_off_and_the_map_shrinks_with_its_names(opened, record):
    page = opened(RECORDS[record](), width=1000, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("document.querySelector('main').style.width = '680px'")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("input:visible").count() == page.locator(".readout:visible").count() == 0
    wide = "(all) => all.filter((each) => each.scrollWidth > each.clientWidth + 1).map((each) => each.className)"
    assert page.locator(".scroll, .figure").evaluate_all(wide) == []
    for map in page.locator(".map").all():
        drawn = shares(map)
        # What is drawn at one width is printed at another, and no script runs in between.
        map.evaluate("(map) => { map.style.width = '400px'; }")
        assert map.bounding_box()["width"] == 400
        assert shares(map) == pytest.approx(drawn, abs=0.01)


def shares(map):
    """Where the cells of a map begin and end, as shares of the drawing around them."""
    whole, frame, cells = map.bounding_box(), map.locator("svg").bounding_box(), map.locator("canvas").bounding_box()
    assert frame["width"] == pytest.approx(whole["width"], abs=1)
    sizes = (("x", "width"), ("y", "height"))
    return [(cells[at] + end * cells[size] - frame[at]) / frame[size] for at, size in sizes for end in (0, 1)]


KEPT = {
    "a curve": "svg.plot >> nth=1",
    "a box of the graph": ".graph .node >> nth=2",
    "a row of the table": ".sites td button >> nth=3",
}


@pytest.mark.parametrize("place", KEPT)
def test_choosing_a_site_by_keyboard_keeps_the_place(opened, place):
    page = opened(resnet())
    page.locator(KEPT[place]).focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    name = page.locator(".detail .site-name").inner_text()
    assert name != "A site"
    assert page.locator(KEPT[place]).evaluate("(element) => element === document.activeElement")
    if place == "a curve":
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        assert page.locator(".detail .site-name").inner_text() != name


def test_choosing_a_network_by_keyboard_keeps_the_place(opened):
    page = opened(RECORDS["grid"]())
    page.locator(".cells button").nth(1).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".cells button").nth(2).get_attribute("aria-pressed") == "true"


def test_links_within_a_site_go_on_from_its_beginning(opened):
    page = opened(resnet())
    page.click("button.first-bad")
    page.locator(".detail li button").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "detail"


HOSTILE = "</script><img src=x onerror=alert(1)>\"'🙂\u202e\x00\ud800"


@pytest.mark.parametrize("width", [1400, 420])
def test_names_are_text(opened, width):
    profile = connected_profile()
    sites = tuple(replace(site, name=f"{site.name}{HOSTILE}" * 5, kind=HOSTILE, parents=()) for site in profile.sites)
    page = opened(ProfileSet((replace(profile, sites=sites, labels={HOSTILE: HOSTILE}),)), title=HOSTILE, width=width)
    assert page.locator("img").count() == 0
    page.locator(".sites td button").first.click()
    assert "<img src=x onerror=alert(1)>\"'🙂\\u202e\\u0000\\ud800" in page.locator(".detail .site-name").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_network_is_out_of_reach(chromium, tmp_path):
    (tmp_path / "page.html").write_text(page_html(resnet()))
    page = chromium.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    said = page.evaluate(
        "() => new Promise((done) => {"
        " document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));"
        " fetch('https://example.org/').catch(() => null); })"
    )
    assert said == "connect-src"
    assert json.loads(page.locator("#data").text_content())["format"] == "propscope-report"
    page.close()


def test_without_a_script_the_verdict_is_there(opened):
    page = opened(resnet(), script=False)
    (found,) = page_document(resnet())["networks"]
    assert found["lines"][0] in page.locator("noscript").inner_text()
