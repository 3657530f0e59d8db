"""Tables of the sampling settings, the data and the lineage name what matters, in words."""

from ddpm.reporting import origins

DRAWING = {
    "sampler": "dpmpp_2m",
    "steps": 10,
    "ddpm": {"variance": "small"},
    "unipc": {"order": 2},
    "time_grid": "karras",
    "karras": {"rho": 7.0},
    "guidance": 1.0,
    "guide": None,
    "guidance_interval": [0.0, None],
    "threshold": None,
}


def test_only_sampling_settings_that_have_an_effect_are_shown() -> None:
    assert origins.sampling_table(DRAWING).rows == [
        ("sampler", "dpmpp_2m"),
        ("steps", "10"),
        ("time_grid", "karras"),
        ("karras", "rho 7"),
        ("guidance", "1"),
    ]
    guided = dict(origins.sampling_table(DRAWING | {"sampler": "ddpm", "guidance": 2.0, "time_grid": "uniform"}).rows)
    assert guided["ddpm"] == "variance small"
    assert guided["guidance_interval"] == "[0, none]"
    assert "karras" not in guided


def test_the_data_are_named_with_their_numbers_and_classes() -> None:
    facts = {"name": "digits", "content_hash": "ab" * 32, "train": 1438, "test": 359, "channels": 1, "size": 8}
    rows = dict(origins.data_table(facts | {"rejected": {"too small": 3}, "classes": ["<b>", "1"]}).rows)
    assert rows["images"] == "1,438 for training, 359 held out"
    assert rows["rejected files"] == "3 too small"
    assert rows["shape"] == "8x8 pixels, grey"
    assert rows["classes (2)"] == "<b>, 1"


def test_the_lineage_names_data_code_training_and_what_it_started_from() -> None:
    origin = {
        "data": "digits",
        "data_hash": "ab" * 32,
        "code_hash": "cd" * 32,
        "git_commit": "ef" * 20,
        "params": {"train": {"images": 60000}, "schedule": {"name": "cosine"}, "objective": {"target": "v"}},
        "start": {"name": "ddpm version 1", "tensors": 130, "taken_over": 123},
        "machine": {"device": "cpu", "processes": 1},
    }
    assert origins.lineage_table(origin, run_id="r1").rows == [
        ("data", "digits, version abababababab"),
        ("training", "60,000 images, schedule cosine, target v"),
        ("started from", "ddpm version 1, 123 of 130 tensors"),
        ("code that trained", "cdcdcdcdcdcd, commit efefefefefef"),
        ("machine", "device cpu, processes 1"),
        ("MLflow run", "r1"),
    ]
    assert origins.lineage_table({}).rows == []
