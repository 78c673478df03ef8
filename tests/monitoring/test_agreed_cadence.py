"""Ranks sample the same steps, as the first of them decides."""

from building.simulated_ranks import on_threads, simulated

from propscope.monitoring.agreed_cadence import AgreedCadence


def run(cadence, seconds, *, steps, ask=None):
    """The steps that a cadence samples, and those at whose end the ranks meet."""
    sampled, met = [], []
    for step in range(steps):
        if ask is not None:
            ask(cadence, step)
        due = cadence.due(step)
        sampled += [step] * due
        cadence.end(seconds=seconds + due * seconds, own=due * seconds, sampled=due)
        if cadence.meets:
            met.append(step)
            cadence.agree(step)
    return sampled, met


def on_all(seconds, *, ask=None, steps=40, **options):
    options = {"every": 10, "start": 0, "stop": None, "budget": None} | options
    cadences = [AgreedCadence(ranks=one, **options) for one in simulated(len(seconds))]
    works = [
        lambda c=c, s=s, at=at: run(c, s, steps=steps, ask=None if ask is None else ask[at])
        for at, (c, s) in enumerate(zip(cadences, seconds, strict=True))
    ]
    found = on_threads(*works)
    assert all(one == found[0] for one in found)
    return found[0]


def test_without_a_limit_each_multiple_is_sampled_on_all_ranks():
    assert on_all([1.0, 1.0]) == ([0, 10, 20, 30],) * 2
    # They meet behind the end too, as it may be moved.
    assert on_all([1.0, 1.0], start=7, stop=30) == ([7, 10, 20], [7, 10, 20, 30])


def test_the_first_rank_decides_by_its_own_clock():
    slow, fast = 10.0, 1e-6
    # Ten samples are free. On a fast rank each further one is too, on a slow one none fits.
    sampled, met = on_all([fast, slow], every=1, budget=0.01)
    assert len(sampled) == 40
    sampled, met = on_all([slow, fast], every=1, budget=0.01)
    assert len(sampled) == 10
    assert met == list(range(40))


def test_what_is_asked_of_the_first_rank_counts_from_the_next_meeting_on():
    def often(cadence, step):
        if step == 3:
            cadence.every = 4

    def wants(cadence, step):
        if step == 13:
            cadence.request()

    assert on_all([1.0, 1.0], ask=[often, lambda *_: None])[0] == [0, 10, *range(12, 40, 4)]
    assert on_all([1.0, 1.0], ask=[wants, lambda *_: None])[0] == [0, 10, 20, 21, 30]
    assert on_all([1.0, 1.0], ask=[lambda *_: None, wants])[0] == [0, 10, 20, 30]


def test_a_start_and_stop_that_change_on_the_first_rank_count_on_all():
    def earlier(cadence, step):
        if step in (5, 25):
            cadence.stop = 12 if step == 5 else None

    def later(cadence, step):
        if step == 15:
            cadence.start = 33
            cadence.request()

    assert on_all([1.0, 1.0], ask=[earlier, lambda *_: None]) == ([0, 10, 31], [0, 10, 20, 30, 31])
    assert on_all([1.0, 1.0], ask=[later, lambda *_: None]) == ([0, 10, 20, 33], [0, 10, 20, 33])


def test_steps_behind_one_that_looks_wrong_are_sampled():
    def alarmed(cadence, step):
        if step == 10:
            cadence.hurry()

    assert on_all([1.0, 1.0], ask=[alarmed, lambda *_: None])[0] == [0, *range(10, 19), 20, 30]


def test_sampling_that_is_off_can_be_turned_on_again():
    def switches(cadence, step):
        if step in (5, 25):
            cadence.switch(on=step == 25)

    sampled, met = on_all([1.0, 1.0], ask=[switches, lambda *_: None])
    assert sampled == [0, 10, 31]
    assert met == [0, 10, 20, 30, 31]


def test_a_resumed_run_meets_at_its_first_step():
    def resumed(cadence, step):
        if step == 0:
            cadence.restore({"samples": 3, "elapsed": 1.0, "cost": 0.1, "sampling": 0.1})

    sampled, met = on_all([1.0, 1.0], ask=[resumed] * 2, every=7, steps=20)
    # The first step was due, and is made up for.
    assert sampled == [1, 7, 14]
    assert met[0] == 0


def test_a_rank_that_leaves_decides_alone():
    cadence = AgreedCadence(10, start=0, stop=None, budget=None, ranks=simulated(2)[0])
    cadence.leave()
    assert run(cadence, 1.0, steps=30) == ([0, 10, 20], [])
