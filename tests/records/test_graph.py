"""What feeds what among the sites of a profile."""

import dataclasses
import json

import pytest
from building.records import connected_profile, network, plain, small_profile
from hypothesis import given
from hypothesis import strategies as st

from propscope.errors import UnknownSiteError
from propscope.records import UNKNOWN, NetworkProfile, Parent, ProfileSet, Site
from propscope.records.network import share_graph
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


def positions(profile, *names):
    return [profile.graph.names.index(name) for name in names]


def lines_of(profile, names):
    chosen = [at for at, name in enumerate(profile.graph.names) if name in names.split()]
    return [" ".join(profile.graph.names[at] for at in line) for line in profile.graph.lines(chosen)]


# A gate beside each of two layers, as squeeze and excitation has it.
GATES = wired(stem="", m1="stem", g1="m1", c1="m1 g1", m2="c1", g2="m2", c2="m2 g2", m3="c2", head="m3")
# Skip connections around ever more of it, and what the time step adds to each level.
UNET = wired(time="t", e1="x time", e2="e1 time", e3="e2 time", d2="e3 e2 time", d1="d2 e1 time", out="d1")


def test_a_line_does_not_enter_or_leave_a_side_branch():
    assert lines_of(GATES, "m1 g1 m2 g2 m3 head") == ["m1 m2 m3 head", "g1", "g2"]
    assert lines_of(GATES, "g1 g2 m3 head") == ["g1", "g2", "m3 head"]
    assert lines_of(UNET, "e1 e2 e3 d2 d1") == ["e1 d1", "e2 d2", "e3"]


def test_parallel_branches_are_two_lines_and_heads_start_from_the_trunk():
    twice = wired(x="", a1="x", a2="a1", b1="x", b2="b1", sum="a2 b2", left="sum", right="sum", end="left")
    assert lines_of(twice, "x a1 a2 b1 b2 sum left right end") == ["x sum left end", "a1 a2", "b1 b2", "right"]


def test_a_line_is_not_ended_by_what_is_added_at_each_block():
    stream = wired(angles="", x="words", a="x angles", s1="x a", b="s1 angles", s2="s1 b", c="s2 angles", s3="s2 c")
    assert lines_of(stream, "s1 s2 s3") == ["s1 s2 s3"]


def test_what_a_way_leads_around():
    assert [name for at, name in enumerate(UNET.graph.names) if UNET.graph.bypassed(at)] == ["e1", "e2", "e3", "d2"]
    plain_network = wired(x="input", a="x", b="a")
    assert not any(map(plain_network.graph.bypassed, range(3)))


def test_a_way_around_may_be_asked_to_keep_to_some_sites():
    graph = RESIDUAL.graph
    alive = positions(RESIDUAL, "x", "norm", "k", "sum", "head")
    # The product of q and k is not among them, but the stream is.
    assert [name for name, around in zip(graph.names, graph.bypassed_through(alive), strict=True) if around] == [
        "q",
        "mix",
    ]
    assert not any(graph.bypassed_through(positions(RESIDUAL, "norm", "k", "sum", "head")))


def summing(profile, *sums):
    sites = (dataclasses.replace(site, branch_share=0.5) if site.name in sums else site for site in profile.sites)
    return NetworkProfile(tuple(sites))


def test_the_blocks_of_a_residual_network():
    pre = summing(wired(x="in", n="x", a="n", s1="x a", m="s1", down="s1", s2="down m", end="s2"), "s1", "s2")
    names = pre.graph.names
    assert [(names[b.fork], names[b.sum], [names[at] for at in b.inside]) for b in pre.graph.blocks] == [
        ("x", "s1", ["n", "a"]),
        ("s1", "s2", ["m", "down"]),
    ]
    (block,) = summing(wired(a="in", s="in a", words="ids", places="", e="words places"), "s", "e").graph.blocks
    assert (block.fork, block.sum, block.inside) == (None, 1, (0,))


def test_the_same_place_is_known_by_its_surroundings():
    named = "x: n1:x a1:n1 s1:x+a1 n2:s1 a2:n2 b2:a2 s2:s1+b2 n3:s2 a3:n3 b3:a3 s3:s2+b3 end:s3"
    blocks = wired(**{name: of.replace("+", " ") for name, _, of in (part.partition(":") for part in named.split())})
    graph = summing(blocks, "s1", "s2", "s3").graph
    labels = [{"n": "norm", "s": "sum", "a": "layer", "b": "layer"}.get(name[0], "end") for name in graph.names]
    places = dict(zip(graph.names, graph.places(labels, radius=2), strict=True))
    assert places["a2"] == places["a3"] != places["a1"]
    assert places["n2"] == places["n3"] != places["n1"]
    assert places["b2"] == places["b3"] != places["a1"]
    places = dict(zip(graph.names, graph.places(labels, radius=1), strict=True))
    # The first block is fed by another kind of site, which is the stream all the same.
    assert places["n1"] == places["n2"] == places["n3"]
    plain = dict(zip(blocks.graph.names, blocks.graph.places(labels, radius=1), strict=True))
    assert plain["n1"] != plain["n2"] == plain["n3"]


def ways(edges, last):
    """Return every way back from a site to a source, as tuples that end with the site."""
    return [(*way, last) for before in edges[last] for way in ways(edges, before)] if edges.get(last) else [(last,)]


@given(
    st.lists(st.sets(st.integers(0, 8)), min_size=2, max_size=9),
    st.sets(st.integers(0, 8)),
    st.sets(st.integers(-1, 8)),
)
def test_random_graphs_by_their_ways(drawn, chosen, fed_by_input):
    edges = {
        at: sorted({str(p) for p in before if p < at} | ({"in"} if at in fed_by_input else set()))
        for at, before in enumerate(drawn)
    }
    graph = wired(**{f"{at}": " ".join(before) for at, before in edges.items()}).graph
    edges = {str(at): before for at, before in edges.items()}
    names, every = list(edges), {name: ways(edges, name) for name in edges}
    chosen = sorted(at for at in chosen if at < len(names))
    lines = graph.lines(chosen)
    assert sorted(at for line in lines for at in line) == chosen

    def between(first, last):
        return [way[way.index(first) :] for way in every[last] if first in way]

    for line in lines:
        whole = between(str(line[0]), str(line[-1]))
        assert whole
        assert all(str(at) in way for way in whole for at in line)
    for at, name in enumerate(names):
        around = [
            way
            for last in names
            if any(name in way[:-1] for way in every[last])
            for way in every[last]
            if name not in way and {w for full in every[name] for w in full[:-1]} & {*way[:-1]}
        ]
        assert graph.bypassed(at) == bool(around)
        through = [str(each) for each in chosen]
        kept = [
            way
            for way in around
            for start, source in enumerate(way[:-1])
            if any(source in full[:-1] for full in every[name])
            if all(step == "in" or step in through for step in way[start:])
        ]
        assert graph.bypassed_through(chosen)[at] == (at not in chosen and bool(kept))
        passed = [set(way[:-1]) for way in every[name] if way[0] == "in"] or [set(way[:-1]) for way in every[name]]
        shared = [int(step) for step in set.intersection(*passed) if step != "in"]
        assert graph.dominator(at) == max(shared, default=None)


def test_networks_with_equal_parents_share_a_graph_and_others_keep_their_own():
    one, same = wired(x="", y="x", z="x y"), wired(x="", y="x", z="x y")
    shares = [dataclasses.replace(one.sites[-1], branch_share=0.5), dataclasses.replace(one.sites[0], role="input")]
    others = [
        wired(x="", y="x", z="y"),
        wired(x="", y="x", w="x y"),
        wired(x="", y=None, z="x y"),
        NetworkProfile((*one.sites[:-1], shares[0])),
        NetworkProfile((shares[1], *one.sites[1:])),
        NetworkProfile(one.sites[:2]),
    ]
    own = [profile.graph for profile in others]
    share_graph([one, same, *others])
    assert same.graph is one.graph
    assert all(profile.graph is graph for profile, graph in zip(others, own, strict=True))
    share_graph([])
