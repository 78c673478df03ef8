"""The page of a monitored run: every step beside the maps, of which the last one follows the first alarm."""

from __future__ import annotations

import pytest
from building.records import monitored, sampled_at

from propscope.monitoring.alarms import RULES
from propscope.plots import step_maps
from propscope.plots.run_overview import MAP_OF_ALARM, RunOverview, draw_run_overview, prepare_run_overview
from propscope.plots.run_view import RunView
from propscope.plots.style import styled
from propscope.records import Alarm, MonitoredRun


def overview(run: MonitoredRun) -> RunOverview:
    found = prepare_run_overview(RunView(run))
    assert found is not None
    return found


RUN = monitored([3.0, 2.0, 1.0]) + sampled_at([0, 2], sites=3, dead_units=0, largest_logit=2.0, effective_rank=3.0)


def test_steps_stand_beside_maps() -> None:
    found = overview(RUN)
    assert [panel.label for panel in found.panels][::2] == ["loss", "learning rate"]
    assert [each.title for each in found.maps] == [
        step_maps.FORWARD.title,
        step_maps.BACKWARD.title,
        step_maps.UPDATES.title,
    ]
    with styled():
        figure = draw_run_overview(found)
    # Three panels, three maps, and the colours of each map.
    assert len(figure.axes) == 9
    assert max(figure.get_size_inches()) < 16


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("attention logits", step_maps.LOGITS), ("dead units", step_maps.DEAD), ("collapse", step_maps.RANK)],
)
def test_the_last_map_is_that_of_the_first_alarm(kind: str, shown: step_maps.MapQuantity) -> None:
    alarms = (Alarm(1, 1, "loss spike"), Alarm(2, 2, kind, "fc.1"), Alarm(2, 2, "large update"))
    found = overview(MonitoredRun(RUN.profiles, RUN.steps, alarms))
    assert found.maps[-1].title == shown.title
    assert "Look at the first alarm first" in found.header.reading


def test_a_run_without_samples_or_without_steps() -> None:
    alone = overview(monitored([2.0, 1.0], alarms=[Alarm(1, 1, "loss spike")]))
    assert (alone.maps, len(alone.panels)) == ((), 3)
    maps = overview(sampled_at([0, 1], sites=2))
    assert (maps.panels, len(maps.maps)) == ((), 3)
    with styled():
        assert [len(draw_run_overview(each).axes) for each in (alone, maps)] == [3, 6]
    assert prepare_run_overview(RunView(MonitoredRun(()))) is None


def test_the_alarms_that_have_a_map_are_those_that_a_rule_raises() -> None:
    assert MAP_OF_ALARM.keys() <= {rule.kind for rule in RULES}
