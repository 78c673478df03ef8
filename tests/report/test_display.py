"""What `print` and a notebook show of each record; the text of a stranger's names is never markup."""

import math
import re

import pytest
from building.records import layered, trained

from propscope.diagnosis import diagnose
from propscope.records import ProfileSet, TrainingSet
from propscope.records.calibration import Calibration, SkippedWeight
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.report.display import html_of, text_of

EVIL = '<script>alert("&")</script>'
WORST = Finding(
    "exploding",
    "broken",
    (EVIL, "b"),
    f"the signal grows from {EVIL}",
    "large",
    remedy=Remedy("scale", f"scale {EVIL}"),
)
STATE = State(Diagnosis((WORST,)), 30.0, 1.0)
RECORDS = {
    "profile": layered([1.0, 1e9], initializer=EVIL),
    "profiles": ProfileSet.of([layered([1.0, 1e9], initializer=name, seed=0) for name in (EVIL, "b")]),
    "run": trained([2.0, 1.0], [0.1, 0.9], initializer=EVIL, seed=0),
    "runs": TrainingSet.of([trained([2.0, 1.0], initializer=name, seed=0) for name in (EVIL, "b")]),
    "finding": WORST,
    "diagnosis": Diagnosis((WORST,), labels={"model": EVIL}),
    "diagnoses": Diagnosis((), networks=tuple(Diagnosis((WORST,), labels={"model": name}) for name in (EVIL, "b"))),
    "trials": RemedyTrials(STATE, (Trial(Remedy("norm", f"norm {EVIL}"), STATE, STATE),)),
    "calibration": Calibration((), (SkippedWeight(EVIL, "Linear", "frozen"),), 1, 0),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_record_is_shown(record):
    assert str(record) == text_of(record)
    assert EVIL in str(record)
    shown = record._repr_html_()
    assert shown == html_of(record)
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;" in shown
    # One element, so that a notebook shows it as a whole.
    assert re.match(r"<div>.*</div>$", shown, re.DOTALL)


def test_a_diagnosis_of_several_networks_has_a_table_in_a_notebook():
    fading = [layered([1.0] * 3, [1e-9, 1e-4, 1.0], initializer=name, seed=0) for name in ("a", "b")]
    found = diagnose(ProfileSet.of(fading))
    assert found._repr_html_().count("<table ") == 1
    assert "vanishing backward" in found._repr_html_()
    assert "vanishing backward" in str(found)


def test_a_run_is_shown_epoch_by_epoch():
    lost = trained(
        [2.0, 1.0, math.nan], seed=3, options={"stability": "diverged", "diverged_at": 7, "learning_rate": 0.1}
    )
    lines = str(lost).splitlines()
    assert lines[0] == "diverged at step 7"
    assert "seed 3" in lines[1]
    assert "learning rate 0.1" in lines[1]
    rows = [line.split() for line in lines if re.match(r" +\d ", line)]
    assert [row[:2] for row in rows] == [["0", "2.00"], ["1", "1.00"], ["2", "-"]]
    assert "accuracy" not in lines[4]
    done = str(trained([2.0, 1.0], [0.1, 0.9], seed=0)).splitlines()
    assert done[0] == "converged, final loss 1.00, final accuracy 90.0%"
