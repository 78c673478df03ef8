"""`propscope inspect`: each option on a tiny model, and each way to use it wrongly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from building.command_line import missing

from propscope import ProfileSet, load
from propscope.cli import main

MODELS = """
import torch
from torch import nn

def good(hidden: int = 8, classes: int = 3, act: str = "relu", bias=True):
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[act]
    return nn.Sequential(nn.Linear(4, hidden, bias=bias), kind(), nn.Linear(hidden, hidden), kind(),
                         nn.Linear(hidden, classes))

def needs(hidden):
    return good(hidden)

def number():
    return 3

def fails():
    raise RuntimeError("two\\nlines")

value = 5
ready = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

class Breaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 4), nn.ReLU(), nn.Linear(5, 4)

    def forward(self, x):
        return self.second(self.act(self.first(x)))

class BreaksBackward(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x).sigmoid()
        return y * y.detach().clone().requires_grad_() + Bad.apply(y)

class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no way back")

class NoGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            return self.first(x).relu()

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids):
        print("models print")
        return {"logits": self.out(self.table(ids))}

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 3), nn.Linear(5, 3), nn.Dropout(0.5)

    def forward(self, x, y):
        return self.drop(self.a(x) + self.b(y))

def bare():
    return nn.Sequential(nn.ReLU(), nn.Softmax(1))

def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def forward(self, input_ids):
        return self.table(input_ids)

class Stating(nn.Module):
    default_cfg = {"input_size": (3, 8, 8)}

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x)

class Misstating(Stating):
    def forward(self, x):
        return self.layer(x[0, 0])

class Config:
    def __init__(self, width=4, kinds=None):
        if width % 2:
            raise ValueError("width must be even")
        self.width, self.kinds, self.vocab_size = width, kinds, 11

class Configured(nn.Module):
    config_class = Config

    def __init__(self, config, scale=1.0):
        super().__init__()
        self.config, self.scale = config, scale
        self.table, self.out = nn.Embedding(11, config.width), nn.Linear(config.width, 11)

    def forward(self, ids):
        return self.out(self.table(ids)) * self.scale
"""


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*arguments, code=0):
        arguments = [str(argument) for argument in arguments]
        if not any(option.startswith("--input") for option in arguments) and code == 0:
            arguments += ["--input-shape", "6,4"]
        assert main(["inspect", *arguments]) == (code or 0)
        return capsys.readouterr()

    return call


def document(run, *arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).out)


class TestRuns:
    def test_a_file(self, run):
        shown = run("nets.py:good")
        assert shown.err == ""
        lines = shown.out.splitlines()
        assert lines[0] == "nets.py:good: Sequential, input 6,4 float32, train, loss cotangent"
        assert lines[1].startswith("input: 6,4 float32, ")
        assert lines[2] == "healthy: no problem found at 5 sites"
        assert [line.split()[0].lstrip("├└─") for line in lines if "Linear" in line] == ["0", "2", "4"]
        assert "parameters: 139 in 6 tensors; all have a gradient" in shown.out

    def test_a_module_of_the_working_directory(self, run):
        assert run("nets:good").out.startswith("nets:good: Sequential")
        sys.modules.pop("nets", None)

    def test_a_module_object(self, run):
        assert "Linear" in run("nets.py:ready").out

    def test_arguments(self, run):
        found = document(run, "nets.py:good", "--arg", "hidden=6", "--arg", "act=tanh", "--arg", "bias=False")
        assert [site["shape"] for site in found["sites"]] == [[6, 4]] + [[6, 6]] * 4 + [[6, 3]]
        assert found["sites"][2]["kind"] == "Tanh"
        assert "0.bias" not in {parameter["name"] for parameter in found["parameters"]}

    def test_configuration(self, run):
        arguments = ("nets.py:Configured", "--input-shape", "2,5", "--input-kind", "tokens")
        found = document(run, *arguments, "--config", "width=6,kinds=['a', 'b']", "--arg", "scale=2.0")
        assert found["sites"][1]["shape"] == [2, 5, 6]
        assert document(run, *arguments)["sites"][1]["shape"] == [2, 5, 4]

    def test_tokens_and_nothing_else_on_stdout(self, run):
        shown = run("nets.py:Words", "--input-shape", "2,5", "--input-kind", "tokens", "--json")
        assert json.loads(shown.out)["input"] == "2,5 int64"
        assert "models print" in shown.err

    def test_several_inputs(self, run):
        found = document(run, "nets.py:Two", "--input-shape", "6,4", "--input-shape", "6,5")
        assert found["input"] == "6,4 float32; 6,5 float32"

    def test_image(self, run):
        shown = run("nets.py:image", "--input-shape", "2,3,8,8", "--input-kind", "image", "--loss", "cross-entropy")
        assert "Conv2d" in shown.out

    @pytest.mark.parametrize("loss", ["cotangent", "cross-entropy", "mse", "sum"])
    def test_losses(self, run, loss):
        found = document(run, "nets.py:good", "--loss", loss)
        gradient = found["sites"][-1]["backward_rms"]
        if loss == "sum":
            assert gradient == 1.0
        elif loss == "cross-entropy":
            assert 0 < gradient < 1 / 6
        else:
            assert gradient > 0

    @pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
    def test_losses_of_sequences_and_dicts(self, run, loss):
        arguments = ("nets.py:Words", "--input-shape", "2,5", "--input-kind", "tokens", "--loss", loss)
        assert document(run, *arguments)["sites"][-1]["backward_rms"] > 0

    def test_classes_are_on_the_last_axis_of_sequences_and_on_axis_1_of_images(self):
        from propscope.cli.targets import make_loss

        for shape, classes in (((2, 5, 7), 7), ((4, 3), 3), ((2, 6, 4, 4), 6)):
            loss = make_loss("cross-entropy", seed=0)({"out": torch.zeros(shape)})
            assert loss.item() == pytest.approx(np.log(classes), rel=1e-6)

    def test_files_of_input(self, run, models):
        np.save(models / "x.npy", np.ones((5, 4)))
        torch.save({"x": torch.ones(3, 4, dtype=torch.float64), "y": torch.ones(3, 5)}, models / "xy.pt")
        torch.save((torch.ones(2, 4), torch.ones(2, 5)), models / "tuple.pt")
        assert document(run, "nets.py:good", "--input", "x.npy")["input"] == "5,4 float32"
        assert document(run, "nets.py:Two", "--input", "xy.pt")["input"] == "3,4 float32; 3,5 float32"
        assert document(run, "nets.py:Two", "--input", "tuple.pt", "--dtype", "float64")["input"] == (
            "2,4 float64; 2,5 float64"
        )

    def test_arrays_by_position_and_by_name(self, run, models):
        np.savez(models / "both.npz", np.ones((3, 4)), np.ones((3, 5), dtype=np.float32))
        np.savez_compressed(models / "named.npz", y=np.ones((2, 5)), x=np.ones((2, 4)))
        assert document(run, "nets.py:Two", "--input", "both.npz")["input"] == "3,4 float32; 3,5 float32"
        assert document(run, "nets.py:Two", "--input", "named.npz")["input"] == "2,5 float32; 2,4 float32"
        np.savez(models / "one.npz", np.ones((5, 4)))
        assert document(run, "nets.py:good", "--input", "one.npz")["input"] == "5,4 float32"

    def test_shapes_by_name(self, run):
        shapes = ("--input-shape", "y=6,5", "--input-shape", "x=6,4")
        found = document(run, "nets.py:Two", *shapes)
        assert [site["name"] for site in found["sites"][:2]] == ["input[y]", "input[x]"]
        # Names such as ids are tokens.
        assert document(run, "nets.py:Named", "--input-shape", "input_ids=2,5")["input"] == "2,5 int64"
        masks = document(run, "nets.py:Named", "--input-shape", "input_ids=2,5", "--input-kind", "ones")
        assert masks["sites"][0]["forward_min"] == masks["sites"][0]["forward_max"] == 1.0

    def test_an_input_that_the_model_states(self, run):
        shown = run("nets.py:Stating", code=None)
        assert shown.out.startswith(
            "nets.py:Stating: Stating, input 16,3,8,8 float32 (guessed from its default_cfg), train"
        )
        stopped = run("nets.py:Misstating", code=2)
        assert stopped.err.splitlines()[-1].startswith("hint: the input was guessed: give --input-shape")

    def test_costs(self, run):
        shown = run("nets.py:good", "--costs").out
        lines = [line.split() for line in shown.splitlines()]
        # 6 rows through 4 x 8, 8 x 8 and 8 x 3.
        assert "multiply-adds: 720 forward, 120 a sample, elementwise operations not counted" in shown
        assert ["(model)", "Sequential", "6,3", "139", "720", "100%", "384", "B"] in lines
        assert ["2", "Linear", "6,8", "72", "384", "53%", "0", "B"] in lines
        only = run("nets.py:good", "--costs", "--levels", 1, "--seeds", 2).out
        assert only.count("Costs of a forward pass, 6 samples") == 1
        found = document(run, "nets.py:good", "--seeds", 2)["costs"]
        assert (found["multiply_adds"], found["parameters"], found["samples"]) == (720, 139, 6)
        assert [module["name"] for module in found["modules"]] == ["", "0", "1", "2", "3", "4"]

    def test_seeds_are_taken_together(self, run):
        one = document(run, "nets.py:good")
        three = document(run, "nets.py:good", "--seeds", 3)
        assert [site["forward_count"] for site in three["sites"]] == [3 * s["forward_count"] for s in one["sites"]]
        assert three["profile"]["labels"]["networks"] == 3

    def test_a_seed_with_other_sites_is_left_out_and_named(self, run, models):
        (models / "deeper.py").write_text(
            "import torch\n"
            "def model():\n"
            "    return torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(2 + torch.initial_seed() % 2)))\n"
        )
        options = ("deeper.py:model", "--input-shape", "6,4", "--seeds", 4)
        found = document(run, *options)
        assert [site["name"] for site in found["sites"]] == ["input", "0", "1"]
        assert found["profile"]["labels"]["networks"] == 2
        assert [note[:2] for note in found["profile"]["coverage"]] == [["1", "seed"], ["3", "seed"]]
        assert "seeds 1, 3" in run(*options).out

    def test_the_weights_are_those_of_manual_seed(self, run):
        torch.manual_seed(0)
        norm = torch.nn.Linear(4, 8).weight.norm().item()
        before = torch.get_rng_state()
        assert document(run, "nets.py:good")["parameters"][0]["value_norm"] == pytest.approx(norm, rel=1e-6)
        assert torch.equal(before, torch.get_rng_state())

    def test_batches_are_of_one_model(self, run):
        one, two = (document(run, "nets.py:good", "--batches", number) for number in (1, 2))
        for a, b in zip(one["parameters"], two["parameters"], strict=True):
            assert a["value_norm"] == b["value_norm"]
        for a, b in zip(one["sites"], two["sites"], strict=True):
            assert (b["forward_count"], b["samples"]) == (2 * a["forward_count"], 2 * a["samples"])
            assert b["units"] == a["units"]
            assert b["dead_units"] is None or b["dead_units"] <= a["dead_units"]
        assert one["sites"][0]["forward_mean"] != two["sites"][0]["forward_mean"]

    def test_a_unit_is_dead_where_it_is_in_every_batch(self, run, models):
        (models / "twice.py").write_text(
            "import torch\n"
            "def model():\n"
            "    made = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))\n"
            "    with torch.no_grad():\n"
            "        made[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))\n"
            "        made[0].bias.zero_()\n"
            "    return made\n"
        )
        # A batch of one sample: one of both units is dead on it, another one when the sample has the other sign.
        dead = [
            document(run, "twice.py:model", "--input-shape", "1,1", "--batches", number)["sites"][1]["dead_units"]
            for number in (1, 8)
        ]
        assert dead == [1, 0]

    def test_init_sets_the_layers(self, run):
        shown = run("nets.py:good", "--init", "zeros")
        assert "init zeros (6 of 6 parameters set)" in shown.out.splitlines()[0]
        assert shown.out.splitlines()[2].startswith("broken: ")
        assert any(line.startswith("! ") and "zero" in line for line in shown.out.splitlines())
        assert shown.out.splitlines()[3].startswith("cause: ")
        assert "\nremedy: " in shown.out

    def test_checkpoint(self, run, models):
        weights = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        state = {f"module.{name}": torch.full_like(value, 0.5) for name, value in weights.state_dict().items()}
        torch.save({"model_state_dict": state, "epoch": 3}, models / "w.pt")
        found = document(run, "nets.py:ready", "--checkpoint", "w.pt")
        assert {parameter["value_mean"] for parameter in found["parameters"]} == {0.5}

    def test_train_and_eval(self, run):
        arguments = ("nets.py:Two", "--input-shape", "6,4", "--input-shape", "6,5")
        dropped = document(run, *arguments, "--train")["sites"][-1]["forward_zero_fraction"]
        kept = document(run, *arguments, "--eval")["sites"][-1]["forward_zero_fraction"]
        assert dropped > 0.1
        assert kept == 0

    def test_dtype(self, run):
        assert document(run, "nets.py:good", "--dtype", "bfloat16")["profile"]["dtype"] == "bfloat16"

    def test_include_and_exclude(self, run):
        names = [
            site["name"] for site in document(run, "nets.py:good", "--include", "[024]", "--exclude", "2")["sites"]
        ]
        assert names == ["0", "4"]

    def test_views(self, run):
        top = run("nets.py:good", "--sort", "gain", "--top", 1).out
        assert top.count("Linear") == 1
        assert "sites" in run("nets.py:good", "--levels", 1).out
        assert "Precision headroom" in run("nets.py:good", "--precision").out

    @pytest.mark.slow
    def test_store_and_plots(self, run, models):
        (models / "out").mkdir()
        shown = run("nets.py:good", "--output", "out/run.h5", "--plots", "all", "--seeds", 2, "--init", "he_normal")
        kept = load(models / "out" / "run.h5")
        assert isinstance(kept, ProfileSet)
        assert kept.axes == {"model": ("nets.py:good",), "initializer": ("he_normal",), "seed": (0, 1)}
        assert json.loads(kept[0].provenance.spec)["shapes"] == ["6,4"]
        assert {path.suffix for path in (models / "out").iterdir()} == {".h5", ".png"}
        assert "file      out/run.h5" in shown.out
        assert "out/run-curves.png" in shown.out

    def test_what_exists_is_kept(self, run):
        run("nets.py:good", "--output", "run.h5")
        assert "--overwrite" in run("nets.py:good", "--output", "run.h5", "--input-shape", "6,4", code=2).err
        run("nets.py:good", "--output", "run.h5", "--overwrite")

    def test_seeds_are_judged_one_by_one(self, run):
        found = document(run, "nets.py:good", "--seeds", 3, "--arg", "act=tanh", "--init", "zeros")["findings"]
        assert found[0]["confidence"] == pytest.approx(4 / 5)

    def test_json_has_the_verdict_and_the_precision(self, run):
        found = document(run, "nets.py:good", "--init", "zeros")
        assert found["verdict"] == "broken"
        assert found["findings"][0]["severity"] == "broken"
        assert found["findings"][0]["remedy"]["action"] == "repair"
        assert [finding["severity"] for finding in found["findings"]][-1] == "note"
        assert len(found["precision"]["sites"]) == len(found["sites"]) == 6
        assert found["precision"]["recommended_loss_scale"] >= 1
        assert found["stopped"] is None

    def test_no_parameters(self, run):
        shown = run("nets.py:bare")
        assert "parameters: none" in shown.out
        assert "note: no gradient was seen: only the forward pass is judged" in shown.out

    def test_no_gradient_is_said(self, run):
        assert "note: no gradient was seen" in run("nets.py:NoGradient").out


def failure(run, *arguments):
    """The message of a failing call, one line, and its hint."""
    shown = run(*arguments, code=2)
    lines = shown.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert "Traceback" not in shown.err
    return shown


class TestBadUse:
    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("nowhere.net:build", "nowhere.net"),
            ("missing.py:build", "missing.py"),
            ("nets.py", "callable"),
            ("nets.py:nothing", "attribute nothing"),
            ("nets.py:value", "callable int"),
            ("nets.py:number", "int torch.nn.Module"),
            ("nets.py:fails", "RuntimeError two lines"),
            ("nets.py:needs", "hidden"),
        ],
    )
    def test_target(self, run, target, said):
        assert not missing(failure(run, target, "--input-shape", "6,4").err, said)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--arg", "width=3"), "width hidden=8 classes=3 act='relu'"),
            (("--arg", "hidden"), "--arg hidden name=value"),
            (("--arg", "hidden=2", "--arg", "hidden=3"), "--arg hidden twice"),
            (("--arg", "act=none"), "KeyError"),
            (("--config", "width=3"), "config_class"),
            (("--init", "nonsense"), "initializer nonsense"),
            (("--init", "dirac"), "no layer weight"),
            (("--dtype", "int8"), "--dtype int8"),
            (("--device", "nowhere"), "--device nowhere"),
            (("--loss", "huber"), "--loss huber cotangent cross-entropy mse sum"),
            (("--input-kind", "sound"), "--input-kind sound"),
            (("--input-kind", "tokens"), "tokens"),
            (("--input-kind", "image"), "batch,channels,height,width"),
            (("--input-kind", "float,float"), "2 kinds 1 --input-shape"),
            (("--sort", "size"), "sort size"),
            (("--top", "0"), "top 0"),
            (("--levels", "0"), "--levels 0"),
            (("--seeds", "0"), "--seeds 0"),
            (("--batches", "0"), "--batches 0"),
            (("--include", "["), "include [ regular"),
            (("--checkpoint", "none.pt"), "checkpoint none.pt"),
            (("--input", "x.pt"), "--input --input-shape"),
        ],
    )
    def test_options(self, run, options, said):
        assert not missing(failure(run, "nets.py:good", "--input-shape", "6,4", *options).err, said)

    @pytest.mark.parametrize("shape", ["6,x", "6,0", "", "6,-4", "6.5"])
    def test_shape(self, run, shape):
        assert not missing(failure(run, "nets.py:good", "--input-shape", shape).err, f"--input-shape {shape!r}")

    def test_a_bad_view_is_refused_before_the_work(self, run):
        assert not missing(failure(run, "nets.py:fails", "--input-shape", "6,4", "--sort", "size").err, "sort size")

    def test_no_input(self, run):
        assert not missing(failure(run, "nets.py:good").err, "input --input-shape --input")

    def test_a_configuration_that_is_refused(self, run):
        shown = failure(run, "nets.py:Configured", "--config", "width=3", "--input-shape", "2,5")
        assert not missing(shown.err, "--config Config ValueError: width must be even")

    def test_a_shape_that_the_model_rejects(self, run):
        shown = failure(run, "nets.py:good", "--input-shape", "6,5")
        assert "the model stopped in 0 (Linear) on input 6,5 float32: RuntimeError: mat1 and mat2" in shown.err
        assert shown.out == ""

    def test_what_ran_before_a_failure_is_shown_and_kept(self, run, models):
        shown = failure(run, "nets.py:Breaks", "--input-shape", "6,4", "--output", "part.h5")
        assert "stopped in second (Linear)" in shown.err
        assert shown.out.splitlines()[2].startswith("stopped in second: RuntimeError")
        assert "first" in shown.out
        assert [site.name for site in load(models / "part.h5")[0].without_inputs.sites] == ["first", "act"]
        found = document(run, "nets.py:Breaks", "--input-shape", "6,4", code=2)
        assert "second" in found["stopped"]

    def test_a_failure_on_the_way_back(self, run):
        shown = failure(run, "nets.py:BreaksBackward", "--input-shape", "6,4")
        assert "ValueError: no way back" in shown.err
        assert "first" in shown.out

    def test_inputs_without_plain_numbers(self, run, models):
        ones = torch.ones(6, 4)
        held = {
            "meta.pt": (ones.to("meta"), "meta"),
            "sparse.pt": (ones.to_sparse(), "sparse_coo"),
            "inside.pt": ({"x": (ones, ones.to_sparse())}, "inside.pt[x][1] sparse_coo"),
            "keys.pt": ({1: ones}, "1 int"),
            "empty.pt": (ones[:0], "(0, 4)"),
            "expanded.pt": (torch.ones(1, 4).expand(10**9, 4), "(1000000000, 4) 4"),
        }
        for name, (value, said) in held.items():
            torch.save(value, models / name)
            assert not missing(failure(run, "nets.py:good", "--input", name).err, f"{name} {said}")
        np.save(models / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        assert not missing(failure(run, "nets.py:good", "--input", "objects.npy").err, "objects.npy numpy array")
        os.mkfifo(models / "pipe.npy")
        assert not missing(failure(run, "nets.py:good", "--input", "pipe.npy").err, "pipe.npy FIFO")

    def test_inputs_in_other_number_types(self, run, models):
        np.save(models / "long.npy", np.ones((6, 4), np.longdouble))
        torch.save(torch.ones(6, 4).to(torch.float8_e4m3fn), models / "small.pt")
        for name in ("long.npy", "small.pt"):
            assert document(run, "nets.py:good", "--input", name)["input"] == "6,4 float32"

    def test_checkpoints_without_plain_numbers(self, run, models):
        weights = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).state_dict()
        first = weights["0.weight"]
        given = {
            "keys.pt": ({0: first}, "0 int"),
            "words.pt": ({**weights, "0.weight": "text"}, "str 0.weight"),
            "sparse.pt": ({**weights, "0.weight": first.to_sparse()}, "0.weight sparse_coo"),
            "meta.pt": ({**weights, "0.weight": first.to("meta")}, "0.weight meta"),
            "complex.pt": ({**weights, "0.weight": first.to(torch.complex64)}, "complex 0.weight"),
        }
        for name, (state, said) in given.items():
            torch.save(state, models / name)
            shown = failure(run, "nets.py:ready", "--input-shape", "6,4", "--checkpoint", name)
            assert not missing(shown.err, f"checkpoint {name} {said}")

    def test_weights_that_are_not_finite_are_named_in_the_first_line(self, run, models):
        weights = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).state_dict()
        weights["2.weight"][0, 0], weights["2.weight"][1] = float("nan"), float("inf")
        torch.save({**weights, "0.bias": weights["0.bias"].double() + 1e300}, models / "bad.pt")
        first = run("nets.py:ready", "--checkpoint", "bad.pt").out.splitlines()[0]
        assert not missing(first, "bad.pt 1 NaN 8 infinite 0.bias 2.weight")

    def test_checkpoints_that_do_not_fit(self, run, models):
        torch.save({"0.weight": torch.zeros(2, 2), "extra": torch.zeros(1)}, models / "other.pt")
        torch.save([1, 2], models / "list.pt")
        (models / "junk.pt").write_text("junk")
        said = failure(run, "nets.py:ready", "--input-shape", "6,4", "--checkpoint", "other.pt").err
        assert "3 missing (0.bias, 2.weight, 2.bias); 1 unexpected (extra)" in said
        assert "1 with another shape (0.weight (2, 2) for (4, 4))" in said
        said = failure(run, "nets.py:ready", "--input-shape", "6,4", "--checkpoint", "list.pt").err
        assert not missing(said, "list.pt list state_dict")
        said = failure(run, "nets.py:ready", "--input-shape", "6,4", "--checkpoint", "junk.pt").err
        assert "weights_only=True" in said

    def test_input_files(self, run, models):
        torch.save(torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]]), models / "nan.pt")
        np.save(models / "text.npy", np.array(["a"]))
        torch.save({"a": "b"}, models / "words.pt")
        (models / "junk.npy").write_text("junk")
        expected = {
            "nan.pt": "nan.pt 1 NaN infinite (0, 1)",
            "text.npy": "text.npy <U1",
            "words.pt": "words.pt tensor tuple dict",
            "junk.npy": "junk.npy numpy array",
            "none.npy": "does not exist",
            "none.pt": "does not exist",
        }
        for name, said in expected.items():
            assert not missing(failure(run, "nets.py:good", "--input", name).err, said)

    def test_a_defect_of_propscope_is_not_blamed_on_the_model(self, run, monkeypatch):
        from propscope.cli import model_runs

        def broken(*arguments, **options):
            raise ZeroDivisionError

        monkeypatch.setattr(model_runs, "_HOME", model_runs.Path(__file__).parent)
        monkeypatch.setattr(model_runs, "profile_batches", broken)
        with pytest.raises(ZeroDivisionError):
            main(["inspect", "nets.py:good", "--input-shape", "6,4"])


@pytest.mark.slow
def test_an_example_is_a_script_that_names_its_fault_in_the_first_screen():
    script = Path(__file__).parents[2] / "examples" / "misscaled_resnet.py"
    # Readline, which pytest loads, puts COLUMNS where only other processes see it.
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, check=True, env={**os.environ}
    )
    shown = done.stdout.splitlines()
    assert shown[0].startswith("input: ")
    assert shown[1].startswith("strained: exploding forward at stage2.1.conv1: ")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("resnet", ("--input-shape", "8,3,32,32")),
        ("language_model", ("--input-shape", "4,64", "--input-kind", "tokens")),
    ],
)
def test_sound_examples_are_healthy(run, target, options):
    from pathlib import Path

    models = Path(__file__).parents[2] / "examples" / "models.py"
    shown = run(f"{models}:{target}", *options).out.splitlines()
    assert shown[2].startswith("healthy: no problem found at ")
    assert not any(line.startswith("!") for line in shown)


def test_summary_prints_the_tree_and_returns_the_profile(capsys):
    import propscope

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    seen = propscope.summary(model, torch.randn(8, 4), sort="gain", top=1)
    assert isinstance(seen, propscope.NetworkProfile)
    assert len(seen.without_inputs.sites) == 3
    assert capsys.readouterr().out.splitlines()[1] == "healthy: no problem found at 3 sites"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_states_of_a_recurrent_layer_that_nothing_uses_are_not_marked(capsys):
    class LastStep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = torch.nn.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    import propscope

    torch.manual_seed(0)
    profile = propscope.summary(LastStep(), torch.randn(32, 5, 8))
    assert [profile[name].backward for name in ("rnn[1][0]", "rnn[1][1]")] == [None, None]
    lines = [line for line in capsys.readouterr().out.splitlines() if "─rnn[1]" in line]
    assert len(lines) == 2
    assert not any("!" in line or "no gradient" in line for line in lines)
