"""Every network of the zoo computes, and is left, bit for bit the same with and without propscope."""

import functools
import gc
import weakref
from contextlib import nullcontext

import pytest
import torch

import propscope
from zoo.comparison import assert_identical, hooks_of, leaves, random_states, state_of, switches
from zoo.faults import entries
from zoo.models import ZOO
from zoo.running import Interruption, Observation, interrupted, middle, observe, prepare

pytestmark = pytest.mark.slow

# Of the ways to compile, these stand for the others where a test would cost a compilation each.
COMPILED_ALIKE = {"compiled_warm", "compiled_aot", "compiled_method"}


@functools.cache
def bare(name: str, *, raises: bool = False) -> Observation:
    entry = ZOO[name]
    return observe(entry, raises_in=middle(entry) if raises else None, again=raises)


@functools.cache
def _tracked(name: str) -> Observation | Exception:
    try:
        return observe(ZOO[name], tracker=propscope.track)
    except Exception as error:  # kept, so that a fault costs its time once
        return error


def tracked(name: str) -> Observation:
    __tracebackhide__ = True
    result = _tracked(name)
    if isinstance(result, Exception):
        raise result
    return result


@entries("test_the_step_repeats")
def test_the_step_repeats(name):
    # What the step itself makes differ from run to run could not be blamed on propscope.
    again = observe(ZOO[name])
    assert_identical(bare(name).results, again.results)
    assert_identical(bare(name).state, again.state)


@entries("test_track_changes_no_result")
def test_track_changes_no_result(name):
    assert_identical(bare(name).results, tracked(name).results)
    assert_identical(bare(name).state["model"]["gradients"], tracked(name).state["model"]["gradients"])


@entries("test_track_leaves_no_trace")
def test_track_leaves_no_trace(name):
    assert_identical(bare(name).state, tracked(name).state)


@entries("test_an_exception_leaves_no_trace", without=COMPILED_ALIKE)
def test_an_exception_leaves_no_trace(name):
    plain = bare(name, raises=True)
    watched = observe(ZOO[name], tracker=propscope.track, raises_in=middle(ZOO[name]), again=True)
    assert plain.raised
    assert watched.raised
    assert_identical(plain.state, watched.state)
    assert_identical(plain.results, watched.results)


# The hooks that look on cannot be pickled.
@entries("test_no_tensor_is_kept", without=COMPILED_ALIKE | {"pickled_meanwhile"})
def test_no_tensor_is_kept(name):
    assert _outlived(name, propscope.track) == _outlived(name, lambda model: nullcontext())


def _outlived(name, tracker):
    """Return which calls' outputs are still alive when the step is over and its results are dropped."""
    model, batch = prepare(ZOO[name])
    outputs = []
    watched = [
        (path, module) for path, module in model.named_modules() if type(module).__module__ != "torch.jit._script"
    ]
    for path, module in watched:
        module.register_forward_hook(
            lambda module, inputs, output, path=path: outputs.extend(
                (path, weakref.ref(leaf)) for _, leaf in leaves(output) if isinstance(leaf, torch.Tensor)
            )
        )
    with tracker(model) as recorder:
        results = ZOO[name].step(model, batch)
        del results, batch
        alive = [path for path, output in outputs if output() is not None]
        if alive:
            gc.collect()
            alive = [path for path, output in outputs if output() is not None]
    del recorder
    return alive


# `profile` refuses a lazy model, which cannot run without making its parameters, and a batch without any element.
REFUSED = {"lazy", "zero_batch"}


@entries("test_profile_leaves_no_trace", without=COMPILED_ALIKE | REFUSED)
def test_profile_leaves_no_trace(name):
    profile_leaves_no_trace(name, raises=False)


@entries("test_a_profile_that_raises_leaves_no_trace", without=COMPILED_ALIKE | REFUSED)
def test_a_profile_that_raises_leaves_no_trace(name):
    profile_leaves_no_trace(name, raises=True)


def profile_leaves_no_trace(name: str, *, raises: bool) -> None:
    entry = ZOO[name]
    where = middle(entry) if raises else None
    model, batch = prepare(entry)
    for index, parameter in enumerate(model.parameters()):
        if index % 2 and not isinstance(parameter, torch.nn.UninitializedParameter):
            parameter.grad = torch.full_like(parameter, 0.5)
    before = _held(model)
    gradients = {path: parameter.grad for path, parameter in model.named_parameters()}
    hooks = hooks_of(model)
    with interrupted(model, where), entry.around():
        if raises:
            with pytest.raises(Interruption):
                propscope.profile(model, batch)
        else:
            propscope.profile(model, batch)
    assert_identical(before, _held(model))
    for path, parameter in model.named_parameters():
        assert parameter.grad is gradients[path], f"{path}: another gradient"
        assert parameter.grad is None or bool((parameter.grad == 0.5).all()), f"{path}: gradient changed"
    # A model that changes itself in its first forward pass (transformers sets hooks of its own) does so here too.
    own = bare(name, raises=raises).state
    after = state_of(model)
    for kind in ("requires_grad", "training", "classes", "attributes", "hooks"):
        assert_identical(own["model"][kind], after[kind])
    assert own["hooks unchanged"] == (hooks_of(model) == hooks)


def _held(model: torch.nn.Module) -> dict[str, object]:
    """Return what must be the same before and after: values, and which objects hold them."""
    tensors = dict(model.state_dict(keep_vars=True)) | dict(model.named_buffers())
    tensors = {path: tensor for path, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    return {
        "values": {path: _copy(tensor) for path, tensor in tensors.items()},
        "identities": {path: id(tensor) for path, tensor in tensors.items()},
        "random": random_states(),
        "switches": switches(),
    }


def _copy(tensor: torch.Tensor) -> torch.Tensor | str:
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        return "not initialized"
    return tensor.detach().clone()
