"""TrainingPlan: which trainings there are, how they are labelled, and what is refused before any work."""

import json

import numpy as np
import pytest
from building.idx_files import write_images

from propscope.errors import InputError
from propscope.experiments.training import make_plan


def plan_of(**options):
    axes = {"depth": 2, "width": 8, "activation": "relu", "initializer": "he_normal", "seeds": 1, "data": "moons"}
    return make_plan(**{**axes, **options})


def test_jobs_come_seed_by_seed_with_the_learning_rates_innermost():
    plan = plan_of(initializer="zeros,ones", width=[4, 8], seeds=[3, 1], learning_rate=[0.1, 0.2])
    jobs = plan.jobs()
    assert len(jobs) == len(plan) == 16
    assert [job.cell.seed for job in jobs] == [3] * 8 + [1] * 8
    assert [job.learning_rate for job in jobs[:4]] == [0.1, 0.2, 0.1, 0.2]
    assert [job.cell.network.initializer.label for job in jobs[:8:2]] == ["zeros", "zeros", "ones", "ones"]
    assert (jobs[0].cell.network.input_size, jobs[0].cell.network.output_size) == (2, 2)


def test_axes_are_written_in_many_ways():
    one = plan_of(activation="tanh, relu", depth=range(1, 3), seeds=2, learning_rate=1)
    two = plan_of(
        activation=iter(["tanh", "relu"]), depth=iter([1, 2]), seeds=np.arange(2), learning_rate=np.array([1])
    )
    assert [one.labels(job) for job in one.jobs()] == [two.labels(job) for job in two.jobs()]
    json.dumps([two.labels(job) for job in two.jobs()])
    json.dumps(two.spec(two.jobs()[0]))


def test_labels():
    usual = {"initializer": "he_normal", "activation": "relu", "depth": 2, "width": 8, "data": "moons"}
    plan = plan_of()
    assert plan.labels(plan.jobs()[0]) == {**usual, "optimizer": "adam", "learning_rate": 1e-3, "seed": 0}
    plan = plan_of(
        optimizer="adamw", learning_rate=[0.1, 0.2], epochs=3, batch=8, scale="zscore", rows=50, validation=0.5,
        weight_decay=0.1, bias=0.5, norm="layer", seeds=[4], profile_every=1,
    )  # fmt: skip
    assert plan.labels(plan.jobs()[0]) == {
        **usual, "bias": 0.5, "norm": "layer", "optimizer": "adamw", "epochs": 3, "batch": 8, "weight_decay": 0.1,
        "scale": "zscore", "rows": 50, "validation": 0.5, "seed": 4,
    }  # fmt: skip
    adamw = plan_of(optimizer="adamw")
    assert "weight_decay" not in adamw.labels(adamw.jobs()[0])


def test_batch_gain_and_dtype_are_axes_of_a_training():
    plan = plan_of(
        batch="8,16..32:16", gain=[0.5, 1], dtype="float32,float64", residual="none,0.5", learning_rate="0.1..0.3:3"
    )
    assert len(plan) == len(plan.jobs()) == 3 * 2 * 2 * 2 * 3
    assert plan.learning_rates == (0.1, 0.2, 0.3)
    labels = [plan.labels(job) for job in plan.jobs()]
    # The learning rate is chosen, so it is no label.
    assert len({json.dumps(each) for each in labels}) == len(plan) // 3
    assert {name: labels[0][name] for name in ("batch", "gain", "dtype", "residual")} == {
        "batch": 8, "gain": 0.5, "dtype": "float32", "residual": "False",
    }  # fmt: skip
    last = plan.jobs()[-1]
    assert (last.batch, last.cell.dtype, last.cell.network.gain, last.cell.network.residual) == (32, "float64", 1, 0.5)
    spec = json.loads(plan.spec(last))
    assert (spec["batch"], spec["dtype"], spec["network"]["gain"]) == (32, "float64", 1.0)
    json.dumps(plan.description())


def test_the_path_of_data_is_no_label(tmp_path):
    write_images(tmp_path / "with:colon")
    plan = plan_of(data=f"MNIST:path={tmp_path}/with:colon")
    assert plan.labels(plan.jobs()[0])["data"] == "mnist"
    assert json.loads(plan.spec(plan.jobs()[0]))["data"] == f"mnist:path={tmp_path}/with:colon"
    assert plan.jobs()[0].cell.network.input_size == 16


def test_usual_learning_rates():
    assert [plan_of(optimizer=name).learning_rates for name in ("sgd", "momentum", "adam", "adamw")] == [
        (0.01,), (0.01,), (1e-3,), (1e-3,),
    ]  # fmt: skip
    assert plan_of(learning_rate=[0.1, 0.1, 0.2]).learning_rates == (0.1, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must .* got 0"),
        ({"epochs": None}, "epochs must .* got None"),
        ({"epochs": 2.5}, "epochs must .* got 2.5"),
        ({"batch": 0}, "batch must .* got 0"),
        ({"batch": "8..4"}, "batch has the range .* runs backwards"),
        ({"batch": []}, "batch must list at least one value"),
        ({"norm": "none,batch", "batch": [8, 1]}, "batch must have at least two rows"),
        ({"gain": "2..1:3"}, "gain has the range .* runs backwards"),
        ({"learning_rate": "1..0:3"}, "learning_rate has the range .* runs backwards"),
        ({"rows": 0}, "rows must .* got 0"),
        ({"threads": 0}, "threads must .* got 0"),
        ({"profile_every": -1}, "profile_every must .* got -1"),
        ({"learning_rate": 0}, "learning_rate must .* got 0"),
        ({"learning_rate": "fast"}, 'learning_rate must .* got "fast"'),
        ({"learning_rate": [0.1, float("nan")]}, "learning_rate must .* got nan"),
        ({"learning_rate": []}, "learning_rate must list at least one"),
        ({"weight_decay": -1}, "weight_decay must .* got -1"),
        ({"target": 0}, "target must .* got 0"),
        ({"target": 90}, "target must .* got 90"),
        ({"validation": 1.5}, "validation must .* got 1.5"),
        ({"validation": 0.001}, "validation 0.001 of 500 rows .* got 500 and 0"),
        ({"data": "moon"}, 'unknown data "moon"'),
        ({"data": "mnist:path=nowhere"}, "the folder nowhere does not exist"),
        ({"optimizer": "rmsprop"}, 'unknown optimizer "rmsprop"'),
        ({"momentum": 0.9}, 'no argument "momentum"; valid are .*optimizer, epochs, batch, weight_decay, scale'),
        ({"jacobian": True}, 'no argument "jacobian"; valid are'),
        ({"loss": "mse"}, 'no argument "loss"; valid are'),
        ({"activation": "rely"}, 'unknown activation "rely"'),
        ({"initializer": "he_norml"}, 'unknown initializer "he_norml"'),
        ({"depth": 0}, "depth must .* got 0"),
        ({"seeds": 0}, "seeds must .* got 0"),
        ({"scale": "unit"}, 'scale must .* got "unit"'),
        ({"dtype": "int8"}, 'dtype must .* got "int8"'),
        ({"epochs": 10**12}, r"a training of 1,000,000,000,000 epochs needs 80,000\.0 GB; this machine has"),
        ({"rows": 10**12}, r"data moons of 1,000,000,000,000 rows needs 64,000\.0 GB"),
        ({"data": "linear", "rows": 10**30}, "data linear of .* rows needs"),
        ({"data": "one_hidden", "rows": 10**10}, "data one_hidden of .* rows needs"),
        ({"threads": 10**9}, "threads must be a whole number of at least 1 and at most 1024, got 1000000000"),
        ({"seeds": 10**12}, "a grid of .* seeds needs"),
        ({"device": "meta"}, 'device "meta" cannot be used'),
        ({"norm": "batch", "batch": 1}, "batch must have at least two rows"),
        ({"width": 10**6, "depth": 10**3}, "need .* GB"),
        ({"activation": "relu,softplus", "initializer": "critical"}, "has no point"),
    ],
    ids=str,
)
def test_what_is_not_valid(options, message):
    with pytest.raises(InputError, match=message) as caught:
        plan_of(**options)
    assert "\n" not in str(caught.value)
