"""Every metric that is measured or logged is in the catalogue, once, with texts that a table can show."""

import subprocess
import sys

from ddpm.measuring.augmentation import Augmentation
from ddpm.measuring.bits_per_dim import BitsPerDim
from ddpm.measuring.metric_catalogue import JUDGED, METRICS, find, with_floors_and_intervals
from ddpm.tracker import metrics_of
from ddpm.training.curves import columns
from ddpm.training.methods.diffusion import Diffusion


def test_every_metric_of_a_record_has_an_interval_in_the_catalogue() -> None:
    for metric in JUDGED:
        for end in ("low", "high"):
            found = find(f"{metric.name}_{end}")
            assert found is not None, metric.name
            assert (found.kind, found.unit, found.group) == (end, metric.unit, metric.group)


def test_every_floor_of_a_record_is_in_the_catalogue() -> None:
    assert [metric.name for metric in JUDGED if not metric.has_floor] == ["data_copying"]
    floor = find("fid_floor")
    assert floor is not None
    assert (floor.kind, floor.label) == ("floor", "FID, floor")


def test_every_logged_curve_and_every_measure_of_the_likelihood_is_in_the_catalogue() -> None:
    likelihood = BitsPerDim(images=1, bound=1.0, bound_prior=0.1, bound_decoder=0.1, ode=1.0).numbers()
    accuracies = Augmentation(real=1, generated=1, both=1, real_images=1, generated_images=1, test_images=1).numbers()
    curves = metrics_of(dict.fromkeys(columns(Diffusion.terms), 1.0))
    assert len(curves) == len(columns(Diffusion.terms)) - 1
    for name in (*curves, *likelihood, *accuracies):
        assert find(name) is not None, name


def test_names_are_unique_and_texts_are_sentences_without_markup() -> None:
    every = list(with_floors_and_intervals())
    assert len({metric.name for metric in every}) == len({metric.label for metric in every}) == len(every)
    for metric in every:
        assert metric.meaning.endswith(".")
        assert not set("|`<>*\n") & set(metric.label + metric.meaning + metric.unit)


def test_direction_in_words() -> None:
    by_name = {metric.name: metric.direction for metric in METRICS}
    assert (by_name["fid"], by_name["recall"], by_name["training_details/learning_rate"]) == (
        "lower is better",
        "higher is better",
        "",
    )


def test_the_catalogue_is_read_without_torch() -> None:
    program = "import sys, ddpm.measuring.metric_catalogue\nprint('torch' in sys.modules or 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
