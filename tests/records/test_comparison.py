"""`Comparison`: which network pictures show, and what tells it from the others."""

from propscope.records.comparison import Comparison, Difference, SiteSizes


def sizes(site, **labels):
    return SiteSizes(site, (1.0, 1.0), (1.0, 1.0), labels)


def of(*differences):
    both = (sizes("", act="relu"), sizes("", act="tanh"))
    return Comparison(differences, sizes=both, axes=("act",))


def test_the_first_network_that_differs_is_drawn_also_where_its_site_is_the_model_itself():
    moved = Difference("", "forward", "rms", "x2", labels={"act": "tanh"})
    assert [each.labels for each in of(moved).drawn] == [{"act": "tanh"}]


def test_without_a_difference_at_a_site_the_first_network_is_drawn():
    loss = Difference("", None, "loss", "x2", step=3)
    assert [each.labels for each in of(loss).drawn] == [each.labels for each in of().drawn] == [{"act": "relu"}]
    assert Comparison(()).drawn == ()


def test_only_steps_as_a_whole_are_of_no_site():
    assert Difference("", None, "loss", "x2", step=3).of_whole_step
    assert not Difference("", None, "structure", "new", step=3).of_whole_step


def test_labels_that_all_networks_share_tell_none_apart():
    assert of().distinct({"act": "tanh", "depth": 3}) == {"act": "tanh"}
    assert of().distinct(None) == {}
