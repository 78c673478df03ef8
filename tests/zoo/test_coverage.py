"""Every network of the zoo is seen: no module that ran is missing, no figure differs from a second observer's."""

import functools
import math
import re

import pytest

import propscope
from propscope.measure import Options, Recorder
from propscope.records import NetworkProfile
from zoo.faults import entries
from zoo.models import ZOO
from zoo.running import prepare
from zoo.witness import Seen, witness

pytestmark = pytest.mark.slow

# The model runs inside a transform of torch.func, or a copy of it runs too: what is to be seen is open.
OPEN = {"per_sample_gradients", "forward_mode", "copied_meanwhile", "pickled_meanwhile"}
WRAPPED = {name for name, entry in ZOO.items() if entry.plain is not None}
WITH_OPERATIONS = {name for name, entry in ZOO.items() if entry.operations}
# Nothing but zero elements passes, or the user's hooks change gradients after they were seen.
EMPTY = {"zero_batch"}
CHANGED_LATER = {"user_hooks"}
FORWARD_ALONE = {"encoder_fast_path", "encoder_fast_path_padded", "attention_fast_path", "inference_mode"}


def record(name: str, *, plain: bool = False, look: bool | None = None) -> NetworkProfile:
    model, batch = prepare(ZOO[name], plain=plain)
    with Recorder(model, options=Options(look=look)) as recorder:
        ZOO[name].step(model, batch)
    return recorder.profile()


@functools.cache
def _recorded(name: str) -> NetworkProfile | Exception:
    try:
        return record(name)
    except Exception as error:  # kept, so that a fault costs its time once
        return error


def recorded(name: str) -> NetworkProfile:
    __tracebackhide__ = True
    result = _recorded(name)
    if isinstance(result, Exception):
        raise result
    return result


@functools.cache
def witnessed(name: str) -> list[Seen]:
    return witness(ZOO[name])


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-30) or (math.isnan(a) and math.isnan(b))


@entries("test_every_module_that_ran_is_seen", without=OPEN)
def test_every_module_that_ran_is_seen(name):
    sites = {site.name: site for site in recorded(name).sites}
    wrong = []
    for seen in witnessed(name):
        site = sites.get(seen.name)
        if site is None and not seen.own:
            # A container's output may be a function's result, and then a site under the function's name.
            alike = [site for site in sites.values() if site.shape == seen.shape and site.forward is not None]
            site = next((site for site in alike if close(site.forward.rms, seen.forward.rms)), None)
        if site is None or site.forward is None:
            wrong.append(f"{seen.name}: not seen")
        elif site.forward.count != seen.forward.count:
            wrong.append(f"{seen.name}: {site.forward.count} elements, expected {seen.forward.count}")
        elif not close(site.forward.rms, seen.forward.rms):
            wrong.append(f"{seen.name}: rms {site.forward.rms}, expected {seen.forward.rms}")
        elif (site.shape, site.dtype) != (seen.shape, seen.dtype):
            wrong.append(f"{seen.name}: {site.dtype} {site.shape}, expected {seen.dtype} {seen.shape}")
    # A container's output that is a child's is one site, and not two.
    model, _ = prepare(ZOO[name], plain=True)
    modules = {path for path, _ in model.named_modules()}
    expected = {seen.name for seen in witnessed(name)}
    for path, site in sites.items():
        home = re.sub(r"(#\d+)?(\[.*)?$", "", path)
        # What a function made of a layer's weights has the layer's name.
        by_weights = site.kind == "input" or "parametrizations" in home
        if home in modules and path not in expected and site.forward.count and not by_weights:
            wrong.append(f"{path}: not expected")
    assert not wrong, "\n".join(wrong)


@entries("test_backward_is_seen_where_gradients_flow", without=OPEN | FORWARD_ALONE | EMPTY)
def test_backward_is_seen_where_gradients_flow(name):
    sites = {site.name: site for site in recorded(name).sites}
    wrong = []
    for seen in witnessed(name):
        if not seen.own or seen.name not in sites:
            continue
        backward = sites[seen.name].backward
        if not seen.backward.count:
            if backward is not None:
                wrong.append(f"{seen.name}: a gradient where none flowed")
        elif backward is None:
            wrong.append(f"{seen.name}: no gradient")
        elif backward.count != seen.backward.count:
            wrong.append(f"{seen.name}: {backward.count} elements, expected {seen.backward.count}")
        elif not close(backward.rms, seen.backward.rms):
            wrong.append(f"{seen.name}: rms {backward.rms}, expected {seen.backward.rms}")
    assert not wrong, "\n".join(wrong)
    assert any(site.backward is not None for site in sites.values())


@entries("test_sites_are_well_formed", without=OPEN)
def test_sites_are_well_formed(name):
    profile = recorded(name)
    names = [site.name for site in profile.sites]
    assert len(names) == len(set(names))
    assert names
    if name in WRAPPED:
        assert not [site for site in names if re.search(r"(^|\.)(module|_orig_mod)(\.|$)", site)]
    for site in profile.sites:
        assert site.forward is not None, site.name
        if name not in EMPTY | {"zero_elements"}:
            assert site.forward.count > 0, site.name
        if site.forward.count > site.forward.nonfinite_count:
            assert math.isfinite(site.forward.rms), site.name
        if profile.provenance.batches == 1:
            assert site.forward.count == math.prod(site.shape), f"{site.name} was counted more than once"
        assert (
            site.backward is None
            or site.backward.count % max(math.prod(site.shape), 1) == 0
            or profile.provenance.batches > 1
        )


@entries("test_functional_operations_are_sites", only=WITH_OPERATIONS)
def test_functional_operations_are_sites(name):
    sites = recorded(name).sites
    kinds = {site.kind.rpartition(".")[2].strip("_").lower() for site in sites} | {site.role for site in sites}
    assert not set(ZOO[name].operations) - kinds


@entries("test_a_wrapper_changes_no_site", only=WRAPPED)
def test_a_wrapper_changes_no_site(name):
    inside, plain = recorded(name), record(name, plain=True)
    assert [site.name for site in inside.sites] == [site.name for site in plain.sites]
    for site, other in zip(inside.sites, plain.sites, strict=True):
        assert (site.kind, site.role, site.shape) == (other.kind, other.role, other.shape), site.name
        assert close(site.forward.rms, other.forward.rms), site.name
        assert (site.backward is None) == (other.backward is None), site.name


@entries("test_parameters_are_seen", without=OPEN | CHANGED_LATER)
def test_parameters_are_seen(name):
    entry = ZOO[name]
    model, batch = prepare(entry, plain=True)
    sums: dict[str, float] = {}

    def add(gradient, path):
        dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
        sums[path] = sums.get(path, 0.0) + float((dense.abs() if dense.is_complex() else dense).double().square().sum())

    parameters = {path: one for path, one in model.named_parameters() if not _uninitialized(one)}
    for path, parameter in parameters.items():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, path=path: add(gradient, path))
    entry.step(model, batch)
    found = {parameter.name: parameter for parameter in recorded(name).parameters}
    assert list(found) == [path for path, _ in model.named_parameters()]
    for path in parameters:
        gradient = found[path].gradient
        assert (gradient is not None) == (path in sums), path
        if gradient is not None and math.isfinite(sums[path]):
            assert close(gradient.rms * math.sqrt(gradient.count), math.sqrt(sums[path])), path


def _uninitialized(parameter):
    return hasattr(parameter, "materialize")


@entries("test_what_never_looks_sees_the_same", without=OPEN)
def test_what_never_looks_sees_the_same(name):
    looking, blind = recorded(name), record(name, look=False)
    assert [site.name for site in looking.sites] == [site.name for site in blind.sites]
    for site, other in zip(looking.sites, blind.sites, strict=True):
        assert close(site.forward.rms, other.forward.rms), site.name
        assert (site.units, site.dead_units, site.symmetric_units) == (
            other.units, other.dead_units, other.symmetric_units,
        ), site.name  # fmt: skip
        assert site.forward.nonfinite_count == other.forward.nonfinite_count, site.name
        assert site.forward.histogram == other.forward.histogram, site.name


# `profile` refuses a lazy model: it cannot run without making its parameters.
@entries("test_profile_sees_what_track_sees", without=OPEN | EMPTY | {"lazy"})
def test_profile_sees_what_track_sees(name):
    model, batch = prepare(ZOO[name])
    with ZOO[name].around():
        profile = propscope.profile(model, batch)
    assert [site.name for site in profile.sites] == [site.name for site in recorded(name).sites]
