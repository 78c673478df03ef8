"""`propscope diagnose`: the words, the verified remedies, the document, and every file that is none."""

import dataclasses
from pathlib import Path

import pytest
from building.command_line import files

import propscope.remedies  # noqa: F401  whose module `verify` the name of its function hides
from propscope.diagnosis import diagnose
from propscope.experiments import profile_mlp
from propscope.experiments.training import train_mlp
from propscope.records import ProfileSet
from propscope.report.diagnosis import diagnosis_text
from propscope.store import load, save


@pytest.fixture(scope="session")
def _deep(tmp_path_factory):
    path = tmp_path_factory.mktemp("deep") / "deep.h5"
    pairs = {"activation": ["relu", "sigmoid"], "initializer": ["he_normal", "normal:std=0.005"]}
    save(path, profile_mlp(12, 32, **pairs, seeds=2, batch=32, histogram_limit=64))
    return path.read_bytes()


@pytest.fixture
def deep(place, _deep):
    """Two activations by two initializers by two seeds, depth 12: one network healthy."""
    (place / "deep.h5").write_bytes(_deep)
    return "deep.h5"


def test_a_grid_is_explained_worst_first(command, deep, place):
    before = files(place)
    out = command.fine("diagnose", deep)
    assert out.startswith("4 networks: 3 broken, 1 healthy\n")
    assert "broken: vanishing" in out
    assert "change  initialize the weights with he_normal" in " ".join(out.split()).replace("change ", "change  ")
    assert "healthy: relu + he_normal: no problem found" in out
    assert files(place) == before


def test_one_network_is_explained_in_full(command, deep):
    out = command.fine("diagnose", deep, "--act", "relu", "--init", "normal:std=0.005")
    assert out.startswith("broken: vanishing forward: the signal shrinks by a factor of ")
    assert out.splitlines()[1].startswith("relu + normal:std=0.005, depth 12")
    # The weights of the first layer are as small as the others.
    assert "multiply the weight std of layers 1 to 12 by" in " ".join(out.split())
    assert command.fine("diagnose", deep, "--act", "relu", "--init", "he_normal").startswith(
        "healthy: no problem found"
    )
    assert "confidence 0.67" in command.fine("diagnose", deep, "--act", "relu", "--seed", "1")


def test_remedies_are_verified(command, deep):
    out = command.fine("diagnose", deep, "--fix", "--act", "relu")
    assert "\nrelu + normal:std=0.005: broken -> healthy\n" in out
    assert "  before     broken: vanishing forward; forward x" in out
    assert "  remedy     initialize the weights with he_normal (He et al. 2015)\n" in out
    assert out.endswith("\n1 of 1 networks improved\n")
    healthy = command.fine("diagnose", deep, "--fix", "--act", "relu", "--init", "he_normal")
    assert healthy.endswith("\nnothing to fix: all networks are healthy\n")


@pytest.mark.slow
def test_what_a_file_names_is_imported_only_when_it_is_trusted(command, place):
    (place / "own.py").write_text("import pathlib, torch\npathlib.Path('mark').touch()\nact = torch.relu\n")
    profiles = profile_mlp(12, 32, initializer="normal:std=0.005", seeds=1, batch=32, histogram_limit=64)
    (one,) = profiles
    spec = one.provenance.spec.replace('"relu"', '"own:act"')
    strange = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, spec=spec))
    save("strange.h5", strange)
    out = " ".join(command.fine("diagnose", "strange.h5", "--fix").split())
    assert "broken" in out
    assert "not tried its spec names activation own:act" in out
    assert "--trust" in out
    assert command("diagnose", "strange.h5", "--fix", "--json").document[0]["remedy_trials"]["trials"] == []
    assert not (place / "mark").exists()
    save("own.h5", dataclasses.replace(strange, labels={**one.labels, "activation": "own:act"}))
    for flags in ((), ("--json",)):
        outcome = command("diagnose", "own.h5", "--fix", "--trust", *flags)
        assert outcome.code == 0
        assert outcome.err == "trusted: the file names activation own:act, which is imported or opened now\n"
        assert "healthy" in outcome.out
    assert (place / "mark").exists()
    assert not command("diagnose", "own.h5", "--trust").missing("--trust --fix")


def test_the_document(command, deep):
    found = command("diagnose", deep, "--json").document
    assert [network["verdict"] for network in found] == ["healthy", "broken", "broken", "broken"]
    worst = found[1]["findings"][0]
    assert worst["remedy"]["options"] == {"initializer": "he_normal"}
    assert worst["evidence"]["factor"] < worst["evidence"]["limit"]
    assert not {"mending", "remedy_trials"} & set(found[0])
    verified = command("diagnose", deep, "--act", "relu", "--fix", "--json").document
    assert verified[0]["remedy_trials"] is None
    assert all(network["mending"] == network["remedy_trials"] for network in verified)
    trial = verified[1]["remedy_trials"]["trials"][-1]
    assert trial["helped"]
    assert (trial["after"]["verdict"], trial["after"]["worst"]) == ("healthy", None)


def test_profiles_with_nan_are_explained(command, place):
    save("nan.h5", profile_mlp(4, 8, initializer="normal:std=1e25", seeds=1, batch=8, histogram_limit=64))
    out = command.fine("diagnose", "nan.h5", "--fix")
    assert out.startswith("broken: non-finite forward")
    assert "broken -> healthy" in out
    assert command("diagnose", "nan.h5", "--json").document[0]["verdict"] == "broken"


MODELS = Path(__file__).parents[2] / "examples" / "models.py"


@pytest.mark.slow
def test_fix_names_the_line_that_repairs_a_model(command, place):
    out = command.fine("inspect", f"{MODELS}:misscaled_resnet", "--input-shape", "8,3,32,32", "--fix")
    assert "fix: strained -> healthy\n  before     strained: exploding forward" in out
    assert "\n  as Python  model.stage2[1].conv1.weight.data.mul_(0.010" in out
    assert files(place) == {}
    sound = command.fine("inspect", f"{MODELS}:resnet", "--input-shape", "8,3,32,32", "--fix", "--seeds", "2")
    assert "\nfix, seed 0: healthy: nothing to fix\n" in sound
    assert "fix" not in command.fine("inspect", f"{MODELS}:misscaled_resnet", "--input-shape", "8,3,32,32")


@pytest.mark.slow
def test_fix_says_what_it_withdraws(command, place):
    lines = "import torch\ndef net():\n    nn = torch.nn\n    layers = []\n    for _ in range(40):\n        "
    (place / "own.py").write_text(
        f"{lines}layers += [nn.Linear(64, 64), nn.GELU()]\n    return nn.Sequential(*layers)\n"
    )
    arguments = ("inspect", "own.py:net", "--input-shape", "64,64", "--fix")
    out = command.fine(*arguments)
    assert "fix: broken -> healthy\n" in out
    assert "\n  withdrawn  multiply the weight of " in out
    assert "\n  as Python  propscope.calibrate(model, batch)\n" in out
    found = command(*arguments, "--json").document["fix"]
    assert [(trial["helped"], trial["chosen"]) for trial in found["trials"]] == [(False, False), (True, True)]
    assert found["trials"][0]["lines"][0].startswith("for i in range(78, 1, -2): model[i].weight.data.mul_(")


def test_fix_centres_a_sigmoid_net(command):
    out = command.fine("inspect", f"{MODELS}:sigmoid_net", "--arg", "depth=30", "--input-shape", "64,128", "--fix")
    assert "remedy: bring each unit to mean 0" in out
    assert "\n  as Python  from propscope.remedies import centre\n             centre(model, batch)\n" in out


def test_fix_of_a_model_that_stops_is_not_tried(command, place):
    outcome = command("inspect", f"{MODELS}:resnet", "--input-shape", "8,4,32,32", "--fix")
    assert outcome.code == 2
    assert "the model stopped in stem.0" in outcome.err
    assert "fix" not in outcome.out


def test_bad_input_is_one_line(command, deep, place):
    assert "gone.h5" in command("diagnose", "gone.h5").error
    (place / "foreign.h5").write_text("text")
    assert "foreign.h5" in command("diagnose", "foreign.h5").error
    assert "there are relu, sigmoid" in command("diagnose", deep, "--act", "rleu").error.replace("activation ", "")
    assert not command("diagnose", deep, "--depth", "x").missing("--depth 'x'")
    save("empty.h5", ProfileSet(()))
    assert command("diagnose", "empty.h5").error == "empty.h5 holds no profiles"
    save("trained.h5", train_mlp(2, 8, seeds=1, data="moons", rows=64, epochs=1, workers=1, profile_every=0))
    refused = command("diagnose", "trained.h5")
    assert refused.error == "trained.h5 holds training runs, not profiles"
    assert "propscope show trained.h5" in refused.hint


def test_an_interrupt_keeps_what_was_said(command, deep, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("propscope.remedies.rebuild.rebuilt", stop)
    outcome = command("diagnose", deep, "--fix")
    assert outcome.code == 130
    assert "4 networks: 3 broken" in outcome.out


def test_no_line_is_longer_than_the_terminal(command, deep, monkeypatch):
    monkeypatch.setattr("propscope.report.terminal.terminal_width", lambda stream=None: 80)
    assert max(map(len, command.fine("diagnose", deep).splitlines())) <= 80


def test_the_file_says_what_python_says(command, deep):
    assert command.fine("diagnose", deep) == diagnosis_text(diagnose(load(deep))) + "\n"
