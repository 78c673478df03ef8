"""`propscope report`: one page of a result file, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from building.records import small_monitored, small_training

from propscope.report.page import page_document, page_html
from propscope.store import load, save


def data_of(path):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', Path(path).read_text())[1])


def test_the_page_lies_beside_the_file(command, run_file):
    assert command.fine("report", run_file) == "run.html\n"
    assert Path("run.html").read_text() == page_html(load(run_file), title="run.h5")
    assert [each["labels"]["initializer"] for each in data_of("run.html")["networks"]] == ["he_normal", "zeros"] * 2


def test_options_select_networks(command, run_file):
    assert command.fine("report", run_file, "--act", "relu", "--init", "zeros", "-o", "one.html") == "one.html\n"
    (one,) = data_of("one.html")["networks"]
    assert (one["labels"]["initializer"], one["seeds"], data_of("one.html")["kind"]) == ("zeros", 2, "network")
    assert "nothing" in command("report", run_file, "--act", "nothing", "-o", "none.html").error
    assert not Path("none.html").exists()


def test_a_page_that_is_there_is_kept(command, run_file):
    Path("run.html").write_text("mine")
    assert not command("report", run_file).missing("run.html exists")
    assert Path("run.html").read_text() == "mine"
    command.fine("report", run_file, "--overwrite")
    assert data_of("run.html")["kind"] == "grid"


def test_a_result_file_is_not_replaced_by_a_page(command, run_file):
    before = run_file.read_bytes()
    assert not command("report", run_file, "-o", run_file, "--overwrite").missing("--output .html run.h5")
    assert run_file.read_bytes() == before


@pytest.mark.parametrize("options, kind, steps", [((), "run", [0, 2]), (("--step", "2"), "network", [2])])
def test_a_monitored_run_and_samples_of_it(command, place, options, kind, steps):
    save("run.h5", small_monitored())
    command.fine("report", "run.h5", *options)
    data = data_of("run.html")
    assert (data["kind"], [each["labels"]["step"] for each in data["networks"]]) == (kind, steps)


def test_trainings(command, place):
    save("run.h5", small_training())
    command.fine("report", "run.h5")
    assert data_of("run.html") == json.loads(json.dumps(page_document(load("run.h5"), title="run.h5")))


def test_a_file_that_is_no_result_is_refused(command, place):
    Path("notes.h5").write_text("notes")
    assert command("report", "notes.h5").hint
    assert not Path("notes.html").exists()


def test_a_section_compares_it_with_another_file(command, run_file):
    command.fine("report", run_file, "--against", run_file, "-o", "same.html", "--act", "relu", "--init", "he_normal")
    against = data_of("same.html")["against"]
    assert (against["same"], against["called"]) == (True, ["run.h5", "run.h5"])
    assert against["lines"][0] == "the same: 6 sites agree, forward and backward"
    assert [len(each["forward"]) for each in against["sites"]] == [2] * len(against["sites"])
    assert "against" not in data_of(command.fine("report", run_file).strip())
    outcome = command("report", run_file, "--against", "none.h5", "-o", "none.html")
    assert outcome.error == "there is no file none.h5"
    save("train.h5", small_training())
    assert "must be two profiles" in command("report", "train.h5", "--against", run_file).error
