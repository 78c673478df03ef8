"""The table of recorded quantities: it names every field of every record, and how each pools holds."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from building.records import layered

import propscope
from propscope.records import Expected, NetworkProfile, Parameter, ProfileSet, Provenance, Site, TensorSummary
from propscope.records.figures import (
    EPOCH_FIELDS,
    EXPECTED_FIELDS,
    PARAMETER_FIELDS,
    PROFILE_FIELDS,
    PROVENANCE_FIELDS,
    RUN_FIELDS,
    SITE_FIELDS,
    SUMMARIES,
    SUMMARY_FIELDS,
    TABLES,
    TRAINING_TABLES,
)
from propscope.records.frames import to_xarray
from propscope.records.pooling import pooled
from propscope.records.rows import parameter_row, site_row
from propscope.records.training import TrainingRun
from propscope.store.schema import TABLES as STORED

# What a record holds that is no column: other records, and what has tables or columns of its own.
APART = {
    "histogram",
    "sites",
    "parameters",
    "profiles",
    "provenance",
    "expected",
    *SUMMARIES["site"],
}
APART |= set(SUMMARIES["parameter"])


def names_of(fields, part=""):
    return {field.attribute for field in fields if field.part == part}


@pytest.mark.parametrize(
    ("record", "fields", "part"),
    [
        (Site, SITE_FIELDS, ""),
        (Parameter, PARAMETER_FIELDS, ""),
        (NetworkProfile, PROFILE_FIELDS, ""),
        (TrainingRun, (*RUN_FIELDS, *EPOCH_FIELDS), ""),
        (TensorSummary, SUMMARY_FIELDS, ""),
        (Expected, EXPECTED_FIELDS, "expected"),
        (Provenance, PROVENANCE_FIELDS, "provenance"),
        (Provenance, PROFILE_FIELDS, "provenance"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_field_of_a_record_is_in_the_table(record, fields, part):
    # What is not given when a record is made is worked out from the rest.
    held = {field.name for field in dataclasses.fields(record) if field.init} - APART
    named = names_of(fields, part)
    if (record, fields) == (Provenance, PROVENANCE_FIELDS):
        named |= {"seed"}
    assert held <= named
    # What is no field follows from fields, or says where the record stands.
    derived = {name for name in named - held if isinstance(getattr(record, name, None), property)}
    assert named - held - derived - APART <= {"index", "number"}
    follows = {field.attribute for field in fields if field.part == part and field.seeds == "recompute"}
    assert derived <= follows


@pytest.mark.parametrize("table", [*TABLES, *TRAINING_TABLES])
def test_a_table_names_each_column_once_and_the_file_has_it(table):
    fields = (TABLES | TRAINING_TABLES)[table]
    names = [field.name for field in fields]
    assert len(set(names)) == len(names)
    assert all(field.label for field in fields)
    columns = {column.name: column for column in STORED[table]}
    for field in fields:
        assert columns[field.name].stored == ("text" if field.dtype == "json" else field.dtype)
        assert (columns[field.name].unit, columns[field.name].since) == (field.unit, field.since)


def test_each_summary_of_a_record_has_the_columns_of_a_summary():
    for table, record in (("site", Site), ("parameter", Parameter)):
        hints = {field.name for field in dataclasses.fields(record) if "TensorSummary" in str(field.type)}
        assert hints == set(SUMMARIES[table])
        for part in SUMMARIES[table]:
            assert names_of(TABLES[table], part) == names_of(SUMMARY_FIELDS)


def test_a_dataset_holds_every_number_that_is_measured_at_a_site():
    kept = {field.name for field in SITE_FIELDS if field.dtype != "text" and field.seeds != "same"}
    dataset = to_xarray([layered([1.0], seed=0)])
    assert set(dataset.data_vars) == kept
    for name in ("largest_logit", "dead_units", "expected_mean_cosine", "jacobian_max", "forward_nan_count"):
        assert name in kept


# How seeds pool


FIGURES = {
    "sum": lambda values: sum(values),
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "rms": lambda values: math.sqrt(sum(value * value for value in values) / len(values)),
    "geometric": lambda values: math.exp(sum(map(math.log, values)) / len(values)),
}


def numbers(site, offset):
    """Return the site with a number of its own in every field of its own that is a number."""
    own = [f for f in SITE_FIELDS if not f.part and f.dtype != "text" and f.name in Site.__dataclass_fields__]
    made = {f.name: place + offset for place, f in enumerate(own, 2) if f.seeds != "same"}
    expected = Expected(*(place + offset for place in range(len(EXPECTED_FIELDS))))
    return dataclasses.replace(site, expected=expected, **made)


def test_every_quantity_pools_over_seeds_as_the_table_says():
    members = [layered([1.0 + seed], seed=seed) for seed in range(3)]
    members = [
        dataclasses.replace(member, sites=tuple(numbers(site, 10 * at) for site in member.sites))
        for at, member in enumerate(members)
    ]
    together = pooled(ProfileSet.of(members))
    rows = [site_row(member.sites[0], 0) for member in members]
    found = site_row(together.sites[0], 0)
    tried = 0
    for field in SITE_FIELDS:
        values = [row[field.name] for row in rows]
        if field.seeds in FIGURES:
            assert found[field.name] == pytest.approx(FIGURES[field.seeds](values)), field.name
            tried += 1
        elif field.seeds == "same":
            assert found[field.name] == values[0], field.name
    assert tried > 15


# How batches pool


class Attending(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.act = torch.nn.ReLU()
        self.last = torch.nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.act(self.first(x))
        return self.last(x + torch.nn.functional.scaled_dot_product_attention(x, x, x))


def recorded(model, *batches):
    with propscope.track(model) as recorder:
        for batch in batches:
            model.zero_grad()
            model(batch).square().sum().backward()
    return recorder.profile()


def test_one_recorder_pools_batches_as_the_table_says():
    torch.manual_seed(0)
    model = Attending()
    batches = [scale * torch.randn(4, 5, 8) for scale in (1.0, 3.0)]
    apart = [recorded(model, batch) for batch in batches]
    both = recorded(model, *batches)
    tried = set()
    for table, rows_of, entries in (
        (SITE_FIELDS, site_row, lambda profile: profile.sites),
        (PARAMETER_FIELDS, parameter_row, lambda profile: profile.parameters),
    ):
        for one, other, together in zip(*map(entries, (*apart, both)), strict=True):
            a, b, found = (rows_of(entry, 0) for entry in (one, other, together))
            for field in table:
                values = [row[field.name] for row in (a, b)]
                known = field.dtype in ("text", "json") or not any(v == -1 or v != v for v in values)
                if not known:
                    continue
                got = found[field.name]
                if field.batches in FIGURES:
                    assert got == pytest.approx(FIGURES[field.batches](values), rel=1e-6), field.name
                elif field.batches == "same":
                    assert got == values[0], field.name
                elif field.batches == "last":
                    assert got == pytest.approx(values[1]) if field.dtype == "float64" else got == values[1]
                elif field.batches == "and":
                    assert got <= min(values), field.name
                elif field.batches == "merge":
                    merged = getattr(one, field.part) + getattr(other, field.part)
                    assert got == pytest.approx(getattr(merged, field.attribute), rel=1e-5, abs=1e-6), field.name
                elif field.batches == "union":
                    held, *parts = (json.loads(value or "[]") for value in (got, *values))
                    assert all(entry in held for part in parts for entry in part), field.name
                else:
                    assert field.batches == "recompute"
                    assert min(values) * 0.999 <= got <= max(values) * 1.001, field.name
                tried.add(field.batches)
    assert tried == {"same", "last", "sum", "merge", "and", "max", "mean", "rms", "union", "recompute"}


def test_units_that_are_dead_in_every_batch_but_not_the_same_ones_are_not_dead():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    batches = [torch.tensor([[1.0, -1.0], [2.0, -3.0]]), torch.tensor([[-1.0, 1.0], [-2.0, 3.0]])]
    assert [recorded(model, batch)["0"].dead_units for batch in batches] == [1, 1]
    assert recorded(model, *batches)["0"].dead_units == 0
    assert np.isfinite(recorded(model, *batches)["0"].forward.rms)
