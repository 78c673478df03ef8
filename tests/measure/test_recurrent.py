"""Recurrent modules over time: exact against networks unrolled by hand, and nothing of the user's run is changed."""

import gc
import itertools
import math
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import propscope
from propscope.measure import recurrent
from propscope.measure.recurrent import NOT_ASKED

STEPS, BATCH, INPUTS, HIDDEN = 7, 4, 3, 5
KINDS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
CELLS = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}


class Sequences(nn.Module):
    """A recurrent module under the name `rnn`; `lengths` packs its input, with sorting where they do not fall."""

    def __init__(self, kind: str, *, lengths: tuple[int, ...] = (), **options):
        super().__init__()
        self.rnn = KINDS[kind](INPUTS, HIDDEN, **options)
        self.lengths = lengths

    def forward(self, x, *states):
        if self.lengths:
            falls = list(self.lengths) == sorted(self.lengths, reverse=True)
            first = self.rnn.batch_first
            x = pack_padded_sequence(x, torch.tensor(self.lengths), batch_first=first, enforce_sorted=falls)
        return self.rnn(x, *states)


def everything(output) -> Tensor:
    """A loss that reads every output at every step."""
    made, states = output
    made = made.data if isinstance(made, PackedSequence) else made
    states = states if isinstance(states, tuple) else (states,)
    return made.square().sum() + sum(state.sin().sum() for state in states)


def inputs(steps=STEPS, batch=BATCH, *, batch_first=False):
    torch.manual_seed(1)
    x = torch.randn(steps, batch, INPUTS, dtype=torch.float64)
    return x.transpose(0, 1) if batch_first else x


def model_of(kind, **options):
    torch.manual_seed(0)
    return Sequences(kind, **options).double()


def by_hand(rnn, x, loss, lengths=None, h=None, c=None):
    """One layer, step by step with torch's own cell: the states at each step and the gradients there."""
    kind = type(rnn).__name__
    more = {"nonlinearity": rnn.nonlinearity} if kind == "RNN" else {}
    cell = CELLS[kind](INPUTS, HIDDEN, **more).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    batch = x.shape[1]
    lengths = lengths or [len(x)] * batch
    h = torch.zeros(batch, HIDDEN, dtype=x.dtype) if h is None else h
    c = torch.zeros(batch, HIDDEN, dtype=x.dtype) if c is None else c
    seen, outputs, last_h, last_c = [], [], [None] * batch, [None] * batch
    for step in range(max(lengths)):
        rows = [at for at in range(batch) if step < lengths[at]]
        entered = (h[rows], c[rows]) if kind == "LSTM" else h[rows]
        made = cell(x[step, rows], entered)
        new = made if isinstance(made, tuple) else (made,)
        for state in new:
            state.retain_grad()
        seen.append(new)
        h = h.index_put((torch.tensor(rows),), new[0])
        c = c.index_put((torch.tensor(rows),), new[1]) if kind == "LSTM" else c
        outputs.append(new[0])
        for place, at in enumerate(rows):
            last_h[at] = new[0][place]
            last_c[at] = new[-1][place]
    states = torch.stack(last_h)[None]
    states = (states, torch.stack(last_c)[None]) if kind == "LSTM" else states
    loss((torch.cat(outputs), states)).backward()
    return [[(rms(state), rms(state.grad)) for state in new] for new in seen]


def rms(tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def reasons(profile):
    return [note.reason for note in profile.coverage if note.what == "module" and "did not run" not in note.reason]


@pytest.mark.parametrize("lengths", [(), (7, 7, 5, 2), (2, 7, 5, 7)], ids=["padded", "sorted", "unsorted"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_shows_the_states_and_gradients_of_one_unrolled_by_hand(kind, batch_first, lengths):
    model = model_of(kind, batch_first=batch_first, lengths=lengths)
    (course,) = propscope.profile(model, inputs(batch_first=batch_first), everything).time_courses
    right = by_hand(model.rnn, inputs(), everything, lengths or None)
    assert (course.module, course.kind, course.layer, course.reverse) == ("rnn", kind, 1, False)
    assert (course.length, course.steps, course.reason) == (STEPS, tuple(range(1, STEPS + 1)), "")
    for part, state in enumerate((course.hidden, course.cell)):
        if state is None:
            assert part == 1
            assert kind != "LSTM"
            continue
        assert state.forward == pytest.approx([step[part][0] for step in right], rel=1e-12)
        assert state.backward == pytest.approx([step[part][1] for step in right], rel=1e-12)


def every_form():
    for kind, (bidirectional, layers), dropout, proj, form in itertools.product(
        KINDS, [(False, 1), (True, 1), (True, 3)], (0.0, 0.4), (0, 2), ("plain", "unsorted", "unbatched", "states")
    ):
        if (dropout and layers == 1) or (proj and kind != "LSTM"):
            continue
        options = {"bidirectional": bidirectional, "num_layers": layers, "dropout": dropout}
        yield pytest.param(kind, {**options, **({"proj_size": proj} if proj else {})}, form, id=f"{kind}-{form}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options", "form"), list(every_form()))
def test_every_form_agrees_with_the_fused_module(kind, options, form):
    # The second run compares outputs, states, and gradients of input, states and weights with the fused ones, to a
    # few eps of float64; a mistake in any of them is a reason here.
    model = model_of(kind, **options, lengths=(2, 7, 5, 7) if form == "unsorted" else ())
    x = inputs() if form != "unbatched" else inputs()[:, 0]
    lanes = options["num_layers"] * (1 + options["bidirectional"])
    given = ()
    if form == "states":
        h = torch.randn(lanes, BATCH, options.get("proj_size", HIDDEN), dtype=torch.float64)
        given = ((h, torch.randn(lanes, BATCH, HIDDEN, dtype=torch.float64)) if kind == "LSTM" else h,)
    profile = propscope.profile(model, (x, *given), everything)
    assert reasons(profile) == []
    assert [(course.layer, course.reverse) for course in profile.time_courses] == [
        (layer, reverse)
        for layer in range(1, options["num_layers"] + 1)
        for reverse in (False, True)[: 1 + options["bidirectional"]]
    ]
    for course in profile.time_courses:
        assert course.hidden.backward is not None
        assert all(value > 0 for value in course.hidden.backward)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_second_run_is_no_course(kind, monkeypatch):
    lane = recurrent.Lane
    step = lane.step

    def wrong(self, *given):
        h, c, gates = step(self, *given)
        return h * 1.0001, c, gates

    monkeypatch.setattr(lane, "step", wrong)
    profile = propscope.profile(model_of(kind), inputs(), everything)
    assert profile.time_courses[0].hidden is None
    assert profile.time_courses[0].reason == "the unrolled run failed, as the coverage says"
    assert any("the unrolled run differs from the module's own by" in reason for reason in reasons(profile))


def test_a_long_sequence_is_sampled_at_sixteen_steps_and_run_in_pieces():
    model = model_of("LSTM")
    (course,) = propscope.profile(model, inputs(100), everything).time_courses
    assert course.steps == (1, 8, 14, 21, 27, 34, 41, 47, 54, 60, 67, 74, 80, 87, 93, 100)
    right = by_hand(model.rnn, inputs(100), everything)
    for part, state in enumerate((course.hidden, course.cell)):
        assert state.forward == pytest.approx([right[step - 1][part][0] for step in course.steps], rel=1e-12)
        assert state.backward == pytest.approx([right[step - 1][part][1] for step in course.steps], rel=1e-12)


def last_output(output) -> Tensor:
    return output[0][-1].sum()


def test_a_linear_recurrence_has_the_gain_of_its_spectral_radius():
    # A relu that never cuts is linear: positive weights, and a loss on the last step only.
    torch.manual_seed(0)
    model = Sequences("RNN", nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(torch.rand(HIDDEN, HIDDEN) + 0.1)
        model.rnn.weight_ih_l0.zero_()
        radius = float(torch.linalg.eigvals(model.rnn.weight_hh_l0).abs().max())
        model.rnn.weight_hh_l0.mul_(1.1 / radius)
    state = torch.rand(1, BATCH, HIDDEN, dtype=torch.float64) + 0.1
    (course,) = propscope.profile(model, (inputs(60), state), last_output).time_courses
    # The first steps still turn the state into the leading direction.
    assert course.forward_gain.gain == pytest.approx(1.1, rel=2e-3)
    assert course.backward_gain.gain == pytest.approx(1.1, rel=2e-3)
    assert course.step_gain == pytest.approx(1.1, rel=0.05)
    assert course.weights[0].radius == pytest.approx(1.1, rel=1e-12)


@pytest.mark.parametrize("bias", [-4.1, -2.0, 0.0, 1.0, 4.1])
def test_an_lstm_forgets_by_the_sigmoid_of_its_forget_bias(bias):
    model = model_of("LSTM")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.rnn.bias_ih_l0[HIDDEN : 2 * HIDDEN] = bias
    h = torch.zeros(1, BATCH, HIDDEN, dtype=torch.float64)
    (course,) = propscope.profile(model, (inputs(40), (h, h + 1)), lambda output: output[1][1].sum()).time_courses
    memory = 1 / (1 + math.exp(-bias))
    assert course.forward_gain.gain == pytest.approx(memory, rel=1e-9)
    assert course.backward_gain.gain == pytest.approx(memory, rel=1e-9)
    assert course.backward_gain.residual == pytest.approx(0, abs=1e-9)
    assert course.cell.step_gains == pytest.approx([memory] * 16, rel=1e-12)
    forget = course.gates[1]
    assert (forget.name, forget.mean) == ("f", pytest.approx([memory] * 16))
    assert forget.flat == (float(abs(bias) > 4),) * 16


def test_a_gain_through_one_step_does_not_depend_on_where_the_loss_reads():
    # A loss on every step hides in the gradient's size that nothing comes from later steps.
    model = model_of("RNN")
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(0.01)
    (course,) = propscope.profile(model, inputs(50), lambda output: output[0].sum()).time_courses
    assert course.backward_gain.gain == pytest.approx(1, abs=0.02)
    assert course.step_gain < 0.02


def test_gates_are_those_of_a_cell_and_flat_where_the_rule_says_so():
    model = model_of("GRU")
    with torch.no_grad():
        model.rnn.bias_ih_l0[:HIDDEN] = torch.tensor([-30.0, 30.0, -30.0, 30.0, 0.0])
    (course,) = propscope.profile(model, inputs(), everything).time_courses
    reset, update, new = course.gates
    assert [gate.name for gate in course.gates] == ["r", "z", "n"]
    assert reset.flat == (0.8,) * STEPS
    assert reset.mean == pytest.approx([0.5] * STEPS, abs=0.1)
    assert all(0.3 < value < 0.7 for value in update.mean)
    assert all(-1 < value < 1 for value in new.mean)


def test_weights_are_gains_of_each_gate():
    model = model_of("LSTM")
    with torch.no_grad():
        for at in range(4):
            rows = slice(at * HIDDEN, (at + 1) * HIDDEN)
            model.rnn.weight_hh_l0[rows] = (at + 1) * torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0].double()
            model.rnn.weight_ih_l0[rows] = at
    (course,) = propscope.profile(model, inputs(), everything).time_courses
    assert [gate.name for gate in course.weights] == list("ifgo")
    assert [gate.recurrent_gain for gate in course.weights] == pytest.approx([1, 2, 3, 4], rel=1e-6)
    assert [gate.input_gain for gate in course.weights] == pytest.approx([at * INPUTS**0.5 for at in range(4)])
    assert [gate.radius is None for gate in course.weights] == [True, True, False, True]
    assert course.weights[2].radius == pytest.approx(3, rel=1e-6)


class Loop(nn.Module):
    """A cell that is called step by step."""

    def __init__(self, kind: str, steps: int = STEPS):
        super().__init__()
        self.cell = CELLS[kind](INPUTS, HIDDEN)
        self.steps = steps

    def forward(self, x):
        state, outputs = None, []
        for step in range(self.steps):
            state = self.cell(x[step], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs), state


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_in_a_loop_shows_what_the_fused_module_does(kind):
    torch.manual_seed(0)
    loop, fused = Loop(kind).double(), model_of(kind)
    weights = {name.replace("rnn.", "cell.").removesuffix("_l0"): value for name, value in fused.state_dict().items()}
    loop.load_state_dict(weights)
    (seen,) = propscope.profile(loop, inputs(), lambda output: output[0].square().sum()).time_courses
    (right,) = propscope.profile(fused, inputs(), lambda output: output[0].square().sum()).time_courses
    assert (seen.module, seen.kind, seen.length, seen.steps) == ("cell", f"{kind}Cell", STEPS, right.steps)
    for state, other in ((seen.hidden, right.hidden), (seen.cell, right.cell)):
        if other is not None:
            assert state.forward == pytest.approx(other.forward, rel=1e-12)
            assert state.backward == pytest.approx(other.backward, rel=1e-12)
    for gate, other in zip(seen.gates, right.gates, strict=True):
        assert (gate.name, gate.mean, gate.flat) == (other.name, pytest.approx(other.mean), other.flat)
    assert seen.weights == right.weights


def test_a_long_loop_is_sampled_evenly_with_its_first_and_last_step():
    (course,) = propscope.profile(Loop("LSTM", 300), inputs(300).float()).time_courses
    assert (len(course.steps), course.steps[0], course.steps[-1], course.length) == (16, 1, 300, 300)
    between = [later - earlier for earlier, later in itertools.pairwise(course.steps)]
    assert max(between) <= 2 * min(between)
    assert all(len(gate.mean) == 16 for gate in course.gates)


def test_track_does_not_run_anything_again_unless_asked():
    model = model_of("LSTM", num_layers=2)
    with propscope.track(model) as recorder:
        everything(model(inputs())).backward()
    profile = recorder.profile()
    assert [(course.layer, course.hidden, course.reason) for course in profile.time_courses] == [
        (1, None, NOT_ASKED),
        (2, None, NOT_ASKED),
    ]
    assert NOT_ASKED in reasons(profile)
    with propscope.track(model, time=True) as recorder:
        everything(model(inputs())).backward()
    asked = recorder.profile()
    assert asked.time_courses == propscope.profile(model, inputs(), everything).time_courses
    assert reasons(asked) == []


def test_track_shows_the_weights_that_ran_not_those_of_the_step_after():
    model = model_of("GRU")
    right = propscope.profile(model, inputs(), everything).time_courses
    with propscope.track(model, time=True) as recorder:
        everything(model(inputs())).backward()
        torch.optim.SGD(model.parameters(), 1.0).step()
    assert recorder.profile().time_courses == right


@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_users_run_is_bit_identical(kind, time):
    def run(watched: bool):
        torch.manual_seed(0)
        model = Sequences(kind, num_layers=2, dropout=0.3, bidirectional=True)
        optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
        x = inputs().float().requires_grad_()
        for _ in range(3):
            if watched:
                with propscope.track(model, time=time):
                    loss = everything(model(x))
                    loss.backward()
                    drawn = torch.rand(3)
            else:
                loss = everything(model(x))
                loss.backward()
                drawn = torch.rand(3)
            optimizer.step()
            optimizer.zero_grad()
            losses += [loss.detach(), drawn]
        return [*losses, x.grad, torch.get_rng_state(), *model.state_dict().values()]

    for with_it, without in zip(run(True), run(False), strict=True):
        assert torch.equal(with_it, without)


def test_profile_leaves_the_random_state_and_the_model_as_they_were():
    model = Sequences("LSTM", num_layers=2, dropout=0.5)
    x = inputs().float()
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    propscope.profile(model, x, everything)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_kept_alive_after_the_block():
    model = Sequences("GRU")
    x = inputs().float()
    with propscope.track(model, time=True) as recorder:
        output = model(x)
        everything(output).backward()
    assert [tensor._backward_hooks for tensor in output] == [{}, {}]
    kept = [weakref.ref(tensor) for tensor in (x, *output)]
    del x, output
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3
    assert recorder.profile().time_courses[0].hidden is not None


def test_nothing_runs_again_where_nobody_can_ask_for_it(monkeypatch):
    ran = []
    monkeypatch.setattr(recurrent, "_run_again", lambda *given: ran.append(given))
    model = Sequences("GRU")
    recorder = propscope.track(model, time=True)
    recorder.__enter__()
    everything(model(inputs().float())).backward()
    del recorder
    gc.collect()
    with pytest.raises(ValueError, match="stop"), propscope.track(model, time=True):  # noqa: PT012  the block is left by it
        everything(model(inputs().float())).backward()
        raise ValueError("stop")
    assert ran == []


class Watched(TorchDispatchMode):
    """Raises where something waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", [Sequences("LSTM", num_layers=2), Loop("LSTM", 40)], ids=["fused", "cell"])
def test_no_hook_waits_for_the_device(model):
    x = inputs(40).float()
    with propscope.track(model, time=True) as recorder, Watched():
        output = model(x)
        everything(output).backward()
    assert recorder._observer.guard.notes == {}


def test_a_checkpointed_module_is_followed_into_its_second_run():
    model = model_of("GRU")
    for reentrant in (False, True):
        with propscope.track(model, time=True) as recorder:
            x = inputs().requires_grad_()
            everything(checkpoint(model, x, use_reentrant=reentrant)).backward()
        (course,) = recorder.profile().time_courses
        assert course == propscope.profile(model, inputs(), everything).time_courses[0]


def test_a_module_called_twice_has_a_course_a_call():
    class Twice(Sequences):
        def forward(self, x):
            return self.rnn(self.rnn(x)[0][..., :INPUTS])

    courses = propscope.profile(Twice("RNN").double(), inputs(), everything).time_courses
    assert [course.module for course in courses] == ["rnn#0", "rnn#1"]
    assert all(course.hidden.backward is not None for course in courses)


def test_a_class_with_a_forward_of_its_own_says_so():
    class Doubled(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(x * 2, hx)

    profile = propscope.profile(Doubled(INPUTS, HIDDEN), inputs().float(), everything)
    assert profile.time_courses == ()
    assert recurrent.OVERRIDDEN in reasons(profile)


def test_what_cannot_be_run_again_says_why(monkeypatch):
    class Writes(Sequences):
        def forward(self, x):
            x = x * 1
            with torch.no_grad():
                output = self.rnn(x)
            x.zero_()
            return output

    profile = propscope.profile(Writes("RNN"), inputs().float())
    assert any("its input was changed in place after it ran" in reason for reason in reasons(profile))
    monkeypatch.setattr(recurrent, "_LIMIT", 1000)
    model = Sequences("RNN", num_layers=2, dropout=0.5)
    profile = propscope.profile(model, inputs().float(), everything)
    assert profile.time_courses[0].hidden is None
    assert any("the unrolled run would need" in reason for reason in reasons(profile))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(), (2, 7, 5, 7)], ids=["padded", "packed"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_more_sequences_than_fit_are_sampled(kind, batch_first, lengths, monkeypatch):
    options = {"batch_first": batch_first, "num_layers": 2, "bidirectional": True}
    model = model_of(kind, lengths=lengths, **options)
    x = inputs(batch_first=batch_first)
    full = STEPS * BATCH if not lengths else sum(lengths)
    width = HIDDEN * 4 * ({"RNN": 1, "LSTM": 4, "GRU": 3}[kind] + 6) + 4 * INPUTS
    monkeypatch.setattr(recurrent, "_LIMIT", full * width * 8 * 0.6)
    profile = propscope.profile(model, x, everything)
    assert any("its states over time are those of 2 of 4 sequences" in reason for reason in reasons(profile))
    monkeypatch.undo()
    # In the order of the lengths, the first and the third one.
    kept = [1, 2] if lengths else [0, 2]
    model.lengths = tuple(lengths[at] for at in kept) if lengths else ()
    right = propscope.profile(model, x[kept] if batch_first else x[:, kept], everything)
    for course, other in zip(profile.time_courses, right.time_courses, strict=True):
        assert course.steps == other.steps
        assert course.hidden.forward == pytest.approx(other.hidden.forward, rel=1e-12)
        assert course.hidden.backward == pytest.approx(other.hidden.backward, rel=1e-12)


def test_without_a_gradient_the_states_are_seen_and_the_reason_is_said():
    model = model_of("LSTM").requires_grad_(False)
    (course,) = propscope.profile(model, inputs(), everything).time_courses
    assert (course.hidden.backward, course.reason) == (None, "no gradient arrived at its outputs")
    assert course.hidden.forward == pytest.approx([step[0][0] for step in states_of(model)], rel=1e-12)


def states_of(model):
    model.requires_grad_(True)
    return by_hand(model.rnn, inputs(), everything)


def test_an_exploding_recurrence_is_shown_though_its_errors_explode_too():
    torch.manual_seed(0)
    model = nn.RNN(INPUTS, 64)
    with torch.no_grad():
        model.weight_hh_l0.normal_(std=2 / 8)
    (course,) = propscope.profile(model, inputs(300).float(), last_output).time_courses
    assert course.backward_gain.gain > 1.05
    # Two runs that differ by rounding are far apart at the end: no limit for their distance follows from eps.
    apart = model(inputs(300).float())[0] - model.double()(inputs(300))[0]
    assert apart[-1].abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_element_types_agree_to_their_own_precision(dtype):
    model = model_of("GRU", num_layers=2).to(dtype)
    profile = propscope.profile(model, inputs().to(dtype), everything)
    right = propscope.profile(model.double(), inputs(), everything)
    assert reasons(profile) == []
    for course, other in zip(profile.time_courses, right.time_courses, strict=True):
        eps = torch.finfo(dtype).eps
        assert course.hidden.forward == pytest.approx(other.hidden.forward, rel=16 * eps)
        assert course.hidden.backward == pytest.approx(other.hidden.backward, rel=32 * eps)


class TanhCell(nn.Module):
    """A cell whose last operation is a function: the site is the function's."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_h = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x, h):
        return torch.tanh(self.of_x(x) + self.of_h(h))


class GatedCell(nn.Module):
    """An LSTM in one linear layer; returns two states."""

    def __init__(self):
        super().__init__()
        self.all = nn.Linear(INPUTS + HIDDEN, 4 * HIDDEN)

    def forward(self, x, states):
        h, c = states
        i, f, g, o = self.all(torch.cat([x, h], -1)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Steps(nn.Module):
    """Calls `cell` step by step; `between` is what happens to the state from one step to the next."""

    def __init__(self, cell, between=None, states=1):
        super().__init__()
        self.cell, self.between, self.states = cell, between or nn.Identity(), states

    def forward(self, x):
        state = x.new_zeros(BATCH, HIDDEN)
        state = (state,) * self.states if self.states > 1 else state
        for step in x:
            state = self.cell(step, state)
            state = self.between(state) if self.states == 1 else state
        return state[0] if self.states > 1 else state


@pytest.mark.parametrize(
    ("model", "states"),
    [
        (Steps(TanhCell()), 1),
        (Steps(GatedCell(), states=2), 2),
        (Steps(TanhCell(), nn.Dropout(0.1)), 1),
        (Steps(TanhCell(), nn.LayerNorm(HIDDEN)), 1),
        (Steps(nn.GRUCell(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN)), 1),
    ],
    ids=["function", "two states", "dropout", "norm", "norm behind torch's"],
)
def test_a_module_that_feeds_itself_is_a_recurrence(model, states):
    (course,) = propscope.profile(model, inputs().float()).time_courses
    assert (course.module, course.length, course.reason) == ("cell", STEPS, "")
    assert (course.cell is not None) == (states == 2)
    assert all(value > 0 for state in (course.hidden, course.state) for value in (*state.forward, *state.backward))


def test_a_fused_module_that_is_called_step_by_step_is_a_cell():
    class Decoder(Sequences):
        def __init__(self, kind):
            super().__init__(kind)
            self.head = nn.Linear(HIDDEN, INPUTS)

        def forward(self, x):
            row, states = x[:1], None
            for _ in range(STEPS):
                made, states = self.rnn(row, states)
                row = self.head(made)
            return row

    for kind in KINDS:
        (course,) = propscope.profile(Decoder(kind), inputs().float()).time_courses
        assert (course.module, course.kind, course.length) == ("rnn", kind, STEPS)
        assert (course.cell is not None) == (kind == "LSTM")
        assert [gate.name for gate in course.weights] == list({"RNN": "h", "LSTM": "ifgo", "GRU": "rzn"}[kind])


class Shared(nn.Module):
    """An activation and a norm that several layers share: they come back through other layers' weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(INPUTS, INPUTS) for _ in range(4))
        self.act, self.norm = nn.ReLU(), nn.LayerNorm(INPUTS)

    def forward(self, x):
        for layer in self.layers:
            x = self.norm(self.act(layer(x)))
        return x


class Alike(nn.Module):
    """A module that is called three times, each time on something else."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x[0]) + self.part(x[1]) + self.part(x[2])


class Pools(nn.Module):
    """A pooling that is called three times in a row, without weights."""

    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.MaxPool1d(3, 1, 1), nn.Linear(INPUTS, INPUTS)

    def forward(self, x):
        return self.head(self.pool(self.pool(self.pool(x))))


class Transformer(nn.Module):
    """Tokens are samples, not steps."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(3)))

    def forward(self, x):
        return self.layers(x.repeat(1, 1, 2)[..., :4])


@pytest.mark.parametrize(
    "model",
    [Shared(), Alike(nn.Linear(INPUTS, 2)), Alike(nn.GRUCell(INPUTS, HIDDEN)), Pools(), Transformer()],
    ids=["shared norm", "siamese", "cell without state", "pooling", "transformer"],
)
def test_what_is_no_recurrence_has_no_course(model):
    assert propscope.profile(model, inputs().float()).time_courses == ()


def test_under_autocast_the_run_is_that_of_the_lower_precision():
    class Lower(Sequences):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.rnn(x)

    torch.manual_seed(0)
    profile = propscope.profile(Lower("LSTM"), inputs().float(), everything)
    assert reasons(profile) == []
    assert profile.time_courses[0].hidden.backward is not None
    with propscope.track(Loop("GRU"), time=True) as recorder, torch.autocast("cpu", torch.bfloat16):
        recorder._model(inputs().float())
    (course,) = recorder.profile().time_courses
    assert len(course.gates) == 3


def test_two_backward_passes_add_up_and_the_loss_scale_is_taken_out():
    model = model_of("GRU")
    right = propscope.profile(model, inputs(), everything).time_courses[0].hidden.backward
    with propscope.track(model, time=True, loss_scale=1024.0) as recorder:
        loss = everything(model(inputs())) * 1024
        loss.backward(retain_graph=True)
        loss.backward()
    found = recorder.profile().time_courses[0].hidden.backward
    assert found == pytest.approx([2 * value for value in right], rel=1e-12)
