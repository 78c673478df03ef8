"""Small plans, and what of a run must repeat."""

from building.records import plain
from propscope.experiments.training import make_plan


def plan_of(**options):
    axes = {"depth": 2, "width": 8, "activation": "relu", "initializer": "he_normal", "seeds": 1, "data": "moons"}
    return make_plan(**{**axes, "rows": 100, "epochs": 3, "batch": 16, "profile_every": 0, **options})


def seen(run):
    """Everything of a run that must not depend on when and where it was made."""
    curves = [getattr(run, name).tobytes() for name in ("train_loss", "train_accuracy", "validation_loss")]
    rest = (run.update_ratio.tobytes(), run.validation_accuracy.tobytes(), run.steps_to_target, run.diverged_at)
    profiles = [(epoch, plain(profile.sites), plain(profile.parameters)) for epoch, profile in run.profiles]
    return curves, rest, run.distinct_rows_after, profiles, dict(run.labels)
