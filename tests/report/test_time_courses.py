"""Recurrent modules over time, as a table and as sentences."""

import math
from dataclasses import replace

from building.records import course, layered

from propscope.records import TimeCourse
from propscope.records.time_course import StateCourse
from propscope.report.inspection import inspection
from propscope.report.time_courses import time_sentences, time_table


def profile(*courses):
    return replace(layered([1.0, 2.0], [1.0, 1.0]), time_courses=courses)


def cells(table, row=0):
    return dict(zip((name.replace("\n", " ") for name in table.columns), table.rows[row], strict=True))


def test_a_row_holds_states_gradients_gains_gates_and_weights():
    table = time_table(profile(course()))
    assert table.title == "1 recurrent layer over time"
    assert cells(table) == {
        "module": "rnn layer 2 reverse",
        "kind": "LSTM",
        "steps": "21",
        "state rms first..last": "0.900..0.109",
        "forward a step": "0.900 ±0.00",
        "gradient rms first..last": "9.5e-7..1.00",
        "backward a step": "0.500 ±0.00",
        "one step": "0.50",
        "gates": "i 0.28 (62% flat), f 0.28 (62% flat), g 0.28 (62% flat), o 0.28 (62% flat)",
        "W_ih": "i 0.50, f 0.50, g 0.50, o 0.50",
        "W_hh": "i 0.75, f 0.75, g 0.75, o 0.75",
        "radius": "1.2",
    }
    assert table.notes[-1] == "no reason"


def test_what_was_not_seen_takes_no_column():
    unseen = TimeCourse("rnn", "GRU", reason="not asked")
    assert time_table(profile(unseen)).columns == ("module", "kind")
    assert time_table(profile()) is None
    assert time_sentences(profile(unseen)) == []


def test_a_sentence_says_what_happens_a_step():
    (said,) = time_sentences(profile(course()))
    assert said == (
        "over time: rnn layer 2 reverse, LSTM, 21 steps: cell state rms 0.900..0.109 (x0.900 ±0.00 a step); its "
        "gradient 9.5e-7..1.00 (x0.500 ±0.00 a step back); one step passes on x0.50 of it; gates i 0.28 (62% flat), "
        "f 0.28 (62% flat), g 0.28 (62% flat), o 0.28 (62% flat); weight_hh i 0.75, f 0.75, g 0.75, o 0.75"
    )
    forward_only = TimeCourse(
        "", "Cell", length=3, steps=(1, 2, 3), hidden=StateCourse((1.0, math.inf, 2.0)), reason="frozen"
    )
    assert time_sentences(profile(forward_only)) == [
        "over time: (model), Cell, 3 steps: hidden state rms 1.00..2.00; frozen",
    ]


def test_many_courses_are_counted_and_inspect_says_them(capsys):
    many = profile(*[course(module=f"rnn.{at}") for at in range(9)])
    said = time_sentences(many)
    assert (len(said), said[-1]) == (7, "over time: and 3 more")
    from propscope.diagnosis import diagnose

    text = " ".join(inspection(many, diagnose(many), width=100).split())
    assert "over time: rnn.0 layer 2 reverse, LSTM, 21 steps: cell state rms" in text
    assert "over time: and 3 more" in text
    print(many)
    assert "9 recurrent layers over time" in capsys.readouterr().out
    assert "recurrent layers over time" in many._repr_html_()


def test_control_characters_of_a_name_are_escaped():
    assert "\x1b" not in time_table(profile(course(module="\x1b[31m"))).to_text()


def test_the_ends_of_a_gradient_are_those_that_were_seen():
    def sentence(*gradient):
        states = StateCourse((1.0, 1.0, 1.0), gradient)
        return time_sentences(profile(TimeCourse("", "Cell", length=3, steps=(1, 2, 3), hidden=states)))[0]

    # What nothing reads, such as the last state of a module called step by step, gets no gradient.
    assert sentence(0.25, 0.5, math.nan).endswith("its gradient 0.250..0.500")
    assert sentence(0.25, math.nan, math.nan).endswith("its gradient 0.250")
