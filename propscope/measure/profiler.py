"""`track`, `profile` and `summary`: watch the caller's own loop, run a model on a batch, print what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TextIO

from torch import Tensor, nn

from propscope.checks import count, known_arguments, seed_number
from propscope.errors import InputError, PropscopeError
from propscope.measure.batches import batch_of, call_model, model_of
from propscope.measure.cost_pass import costs_so_far
from propscope.measure.filters import Filter, Patterns
from propscope.measure.joint_backward import joint_backward
from propscope.measure.module_info import refuse_lazy
from propscope.measure.outputs import as_batch, describe_shapes
from propscope.measure.rank_places import Places
from propscope.measure.ranks import ranks_of
from propscope.measure.recorder import Recorder
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.sites import Options, Stats
from propscope.measure.skipped import random_states
from propscope.measure.undisturbed import undisturbed
from propscope.records.display import print_inspection
from propscope.records.network import NetworkProfile

Loss = Callable[[Any], Tensor]


@known_arguments
def track(
    model: nn.Module,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    kinds: Iterable[str] | None = None,
    depth: int | None = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
    loss_scale: Any = None,
    time: bool = False,
    group: Any = None,
) -> Recorder:
    """Return a context manager that watches `model` in the caller's own loop and changes nothing in it.

    `include`, `exclude`: one or several regular expressions, searched in site names, or module classes. `kinds`: the
    names of the classes and functions that are recorded, None for all. `depth`: record modules down to so many levels
    below the model. `stats`: "all", or "moments" to leave out histograms, units and geometry. `histogram_limit`: the
    largest number of elements of one tensor that a histogram counts, 0 for all. `loss_scale`: the factor that the loss
    is multiplied by, a number or a `GradScaler`; recorded gradients are divided by it. `time`: whether the fused
    recurrent modules (nn.RNN, nn.LSTM, nn.GRU) of the last pass are run once more, unrolled, at the end of the block
    and in `recorder.profile()`, to see their states over time; until then their inputs and copies of their weights are
    kept. `group`: a process group of torch.distributed, or "world": the ranks put together what they see, so that the
    profile is that of one process on the samples of all of them. Every rank then calls `track`, and `profile` as often;
    docs/distributed.md says what each number means. None: the numbers of this process alone.

    `recorder.profile()`, inside the block or after it, returns a `NetworkProfile` of all batches and backward passes so
    far. Raises `InputError` for an invalid argument, and where the ranks of the group have other models.
    """
    ranks = ranks_of(group)
    return Recorder(
        model,
        options=Options(
            stats=stats,
            histogram_limit=count("histogram_limit", histogram_limit, least=0),
            places=None if ranks is None else Places.of(model, ranks),
        ),
        kept=Filter.of(include, exclude, kinds, depth),
        loss_scale=loss_scale,
        time=time,
    )


@known_arguments
def profile(
    model: nn.Module | str,
    batch: Any = None,
    loss: Loss | None = None,
    *,
    input_size: Any = None,
    dtypes: Any = None,
    seed: int = 0,
    include: Patterns = None,
    exclude: Patterns = None,
    kinds: Iterable[str] | None = None,
    depth: int | None = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
) -> NetworkProfile:
    """Run `model` forward and backward on one batch and return its profile; the model stays as it was.

    `model`: a module, or the name of one in a library, such as "timm:resnet18", "torchvision:resnet18" or
    "transformers:BertModel", with random weights drawn with `seed`. `batch`: a tensor, a tuple or list of positional
    arguments, or a mapping of keyword arguments. NumPy arrays become tensors, floating ones in the dtype and on the
    device of the parameters.

    Without a batch one is drawn with `seed`. `input_size`: its size, such as (8, 3, 32, 32); a list of sizes for
    several arguments, or a dict of them by keyword; None: what timm, torchvision, transformers or Lightning's
    `example_input_array` say that fits the model. `dtypes`: one for all, or one for each size: floating-point ones are
    drawn from N(0, 1), whole numbers are tokens of the model's vocabulary, bool is a mask of True; None: tokens for
    keywords such as input_ids, ones for masks, numbers for all else.

    `loss`: a function of the model's output that returns a scalar tensor. Without a loss, one backward pass starts from
    what the model returns, so that the backward curve shows the network and not the loss. A field `loss` of the output
    wins, a tensor whose mean is taken. Else gradients drawn from N(0, 1) with `seed` enter the first differentiable
    tensor, and each other one that no other output was computed from: hidden states and caches that a model returns
    beside its output get none. A tensor without dimensions gets 1. Where no gradient can flow, the profile holds the
    forward pass only, and its coverage says why. The model stays in its mode, train or eval.
    `include`, `exclude`, `kinds`, `depth`, `stats` and `histogram_limit` are as in `track`.

    Raises `InputError` for an invalid model, batch or loss, and for a batch without elements. An exception of the model
    passes through; its attribute `partial_profile` holds the profile so far, whose coverage says where the run stopped,
    and a note of the exception names the place and the input.
    """
    model = model_of(model, seed=seed)
    recorder = track(
        model,
        include=include,
        exclude=exclude,
        kinds=kinds,
        depth=depth,
        stats=stats,
        histogram_limit=histogram_limit,
        time=True,
    )
    given = batch_of(model, batch, input_size=input_size, dtypes=dtypes, seed=seed)
    return profile_batches(model, recorder, [(given, loss, seed)], seed=seed)


@known_arguments
def summary(
    model: nn.Module | str,
    batch: Any = None,
    loss: Loss | None = None,
    *,
    input_size: Any = None,
    dtypes: Any = None,
    seed: int = 0,
    include: Patterns = None,
    exclude: Patterns = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
    sort: str | None = None,
    top: int | None = None,
    depth: int | None = None,
    costs: bool = False,
    file: TextIO | None = None,
) -> NetworkProfile:
    """Profile `model` on one batch, print the tree of its sites and return the profile; the model stays as it was.

    The verdict of `diagnose` comes first. A line that starts with `!` shows something wrong and names it at its end.
    Parameters, multiply-adds and memory are those that `costs` returns, for which the model runs forward once more.

    `model`, `batch`, `loss`, `input_size`, `dtypes`, `seed`, `include`, `exclude`, `stats` and `histogram_limit` are as
    in `profile`. `sort`: "gain", "backward", "flat", "dead" or "nonfinite" lists sites, the worst first, instead of the
    tree; `top`: how many. `depth`: a module so many levels below the model takes one line, with the range of its sites,
    all of which are recorded. `costs`: whether the costs of each module stand below, as a table. `file`: where to
    print, None for stdout. Raises what `profile` raises, and `InputError` for an invalid sort, top or depth.
    """
    model = model_of(model, seed=seed)
    given = batch_of(model, batch, input_size=input_size, dtypes=dtypes, seed=seed)
    measured = profile(
        model,
        given,
        loss,
        seed=seed,
        include=include,
        exclude=exclude,
        stats=stats,
        histogram_limit=histogram_limit,
    )
    print_inspection(
        measured,
        costs_so_far(model, given),
        title=type(model).__name__,
        sort=sort,
        top=top,
        depth=depth,
        costs_table=costs,
        file=file,
    )
    return measured


def profile_batches(
    model: nn.Module, recorder: Recorder, batches: Iterable[tuple[Any, Loss | None, int]], *, seed: int
) -> NetworkProfile:
    """Run `model` on several batches with one recorder and return their profile; the model stays as it was.

    `batches`: each batch with its loss and the seed of its gradient, as `profile` takes them. Every batch starts from
    the same buffers and random states. Summaries merge exactly. A unit is dead (symmetric) if it is so in every batch.
    Mean cosine and effective rank are means over the batches. Raises what `profile` raises.
    """
    number = 0
    for number, (batch, loss, gradient_seed) in enumerate(batches):
        # It reads what is on a device, and the geometry of one batch alone is read with all else.
        if number:
            recorder.end_batch()
        _run(model, recorder, batch, loss, gradient_seed, seed)
    if number:
        recorder.end_batch()
    return recorder.profile(seed=seed)


def _run(model: nn.Module, recorder: Recorder, batch: Any, loss: Loss | None, gradient_seed: int, seed: int) -> None:
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of the model's output or None, got a {type(loss).__name__}")
    seed_number(gradient_seed)
    refuse_lazy(model)
    batch = as_batch(model, batch)
    try:
        with undisturbed(model, batch):
            if _passed(model, recorder, batch, loss, gradient_seed):
                recorder.note_skipped(lambda: call_model(model, batch))
    except Exception as error:
        partial = recorder.profile(seed=seed)
        error.partial_profile = partial  # type: ignore[attr-defined]
        where = stopped_in(partial, model)
        # Python 3.10 has no notes.
        if where and not isinstance(error, PropscopeError) and hasattr(error, "add_note"):
            advice = stop_advice(error, partial, model)
            error.add_note(f"propscope: its input was {describe_shapes(batch)}; {advice}")
        raise


def _passed(model: nn.Module, recorder: Recorder, batch: Any, loss: Loss | None, seed: int) -> bool:
    """Run the model forward and backward while the recorder watches; return whether it drew random numbers."""
    with recorder:
        before = random_states(model)
        output = call_model(model, batch)
        used_random_numbers = random_states(model) != before
        _backward(recorder, output, loss, seed)
    return used_random_numbers


def stopped_in(partial: NetworkProfile | None, model: nn.Module) -> str:
    """Return where a run stopped, such as " in 0 (Linear)"; "" where that is not known."""
    name, module = _stop(partial, model)
    if name is None:
        return ""
    kind = f" ({type(module).__name__})" if module is not None else ""
    return f" in {name}{kind}" if name else f" in its own forward{kind}"


def _stop(partial: NetworkProfile | None, model: nn.Module) -> tuple[str | None, nn.Module | None]:
    notes = partial.coverage if partial is not None else ()
    name = next((note.name for note in notes if "the run stopped in here" in note.reason), None)
    return name, None if name is None else dict(model.named_modules()).get(name)


def stop_advice(error: BaseException, partial: NetworkProfile | None, model: nn.Module) -> str:
    """Return what to change after `error` stopped the model."""
    module = _stop(partial, model)[1]
    if isinstance(module, nn.Embedding) and isinstance(error, (IndexError, RuntimeError)):
        return f"an Embedding takes whole numbers from 0 to {module.num_embeddings - 1}, in int64 or int32"
    if "same dtype" in str(error) and (like := next(model.parameters(), None)) is not None:
        return f"give the input in the dtype of the model, {str(like.dtype).removeprefix('torch.')}"
    return "change the input, or fix the model"


def _backward(recorder: Recorder, output: Any, loss: Loss | None, seed: int) -> None:
    if loss is None:
        for place, reason in joint_backward(output, seed):
            recorder.note_output(place, reason)
        return
    watch = recorder.watch_loss()
    with watch:
        value = loss(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"loss must return a tensor with one element, got {what}")
    if value.requires_grad:
        watch.follow(value, output)
        value.backward()
        recorder.note_loss(watch.fault(value))
    else:
        recorder.note_output("", "the loss requires no gradient: its backward was not measured")
