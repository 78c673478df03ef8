"""What feeds what among the sites of a profile."""

import dataclasses
import json

import pytest
from building.records import connected_profile, network, plain, small_profile

from propscope.errors import UnknownSiteError
from propscope.records import UNKNOWN, NetworkProfile, Parent, ProfileSet, Site
from propscope.records.pooling import pooled
from propscope.report.documents import json_text, profile_document


def wired(**parents):
    """Return a profile of the named sites with these parents, None where they are not known."""
    return NetworkProfile(
        tuple(
            Site(name, "Linear", "other", (2,), parents=None if of is None else tuple(map(Parent, of.split())))
            for name, of in parents.items()
        )
    )


RESIDUAL = wired(x="", norm="x", q="norm", k="norm", mix="q k", sum="x mix", head="sum ?")


def test_parents_and_children_in_execution_order():
    graph = RESIDUAL.graph
    assert graph.known
    assert graph.names == ("x", "norm", "q", "k", "mix", "sum", "head")
    assert graph.parents_of("mix") == ("q", "k")
    assert graph.children_of("norm") == ("q", "k")
    assert graph.children_of("x") == ("norm", "sum")
    assert graph.parents_of("x") == graph.children_of("head") == ()


def test_a_parent_that_is_not_known_is_no_edge():
    assert RESIDUAL.graph.parents_of("head") == ("sum",)
    assert [parent.name for parent in RESIDUAL["head"].parents] == ["sum", UNKNOWN]


def test_all_that_feeds_a_site_and_all_that_it_feeds():
    graph = RESIDUAL.graph
    assert graph.ancestors("mix") == ("x", "norm", "q", "k")
    assert graph.descendants("q") == ("mix", "sum", "head")
    assert graph.ancestors("x") == graph.descendants("head") == ()


def test_the_ways_between_two_sites():
    graph = RESIDUAL.graph
    assert graph.on_the_way("norm", "sum") == ("norm", "q", "k", "mix", "sum")
    assert graph.on_the_way("q", "sum") == ("q", "mix", "sum")
    assert graph.on_the_way("q", "k") == graph.on_the_way("sum", "x") == ()
    assert graph.on_the_way("q", "q") == ("q",)


def test_a_name_that_is_no_site_is_an_error():
    with pytest.raises(UnknownSiteError, match="norms"):
        RESIDUAL.graph.parents_of("norms")


@pytest.mark.parametrize("profile", [network([1.0, 2.0]), wired(a="", b=None)])
def test_a_graph_is_known_only_where_each_site_knows_its_parents(profile):
    assert not profile.graph.known


def test_a_long_network_is_walked_without_recursion_and_built_once():
    names = [f"s{at}" for at in range(5000)]
    profile = wired(**{name: names[at - 1] if at else "" for at, name in enumerate(names)})
    assert profile.graph is profile.graph
    assert profile.graph.ancestors("s4999") == tuple(names[:-1])


def test_the_graph_follows_the_sites_of_a_changed_profile():
    fewer = dataclasses.replace(RESIDUAL, sites=RESIDUAL.sites[:2])
    assert RESIDUAL.graph.names != fewer.graph.names == ("x", "norm")
    assert fewer == dataclasses.replace(RESIDUAL, sites=RESIDUAL.sites[:2])


def test_json_has_parents_as_objects_and_null_where_they_are_not_known():
    connected, bare = (
        json.loads(json_text(profile_document(profile)))["sites"] for profile in (connected_profile(1), small_profile())
    )
    assert connected[0]["parents"] == [{"name": "?", "operations": [], "gradient": False}]
    assert connected[1]["parents"][0] == {"name": "layers.0", "operations": ["linear", "mul"], "gradient": True}
    assert (connected[1]["parameters"], bare[0]["parents"], bare[0]["parameters"]) == (["layers.0.weight"], None, [])


def test_seeds_keep_the_graph_of_the_first():
    together = pooled(ProfileSet.of(connected_profile(seed) for seed in (1, 1)))
    assert plain(together.sites[1].parents) == plain(connected_profile(1).sites[1].parents)
