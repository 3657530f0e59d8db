"""The FID of a model is placed between the steps of damaged real images."""

from ddpm.reporting.reaction_levels import caveat, levels_table

REACTIONS = {
    "protocol": {"n": 100, "reference_n": 50},
    "damages": [
        {"name": "blur", "title": "Blurred", "steps": ["none", "a little", "much"]},
        {"name": "copies", "title": "Copies", "steps": ["none", "some"]},
    ],
    "reactions": [
        {"figure": "fid", "damage": "blur", "values": [0.5, 1.0, 4.0]},
        {"figure": "kid", "damage": "blur", "values": [9.0, 9.0, 9.0]},
    ],
}


def between(fid: float) -> tuple[str, ...]:
    (row,) = levels_table({"fid": fid}, REACTIONS).rows
    return tuple(row)


def test_a_value_lies_between_the_steps_around_it() -> None:
    assert between(2.0) == ("Blurred", "a little (1)", "much (4)")
    assert between(0.4) == ("Blurred", "no step", "none (0.5)")
    assert between(5.0) == ("Blurred", "much (4)", "no step")


def test_without_an_fid_there_is_no_table() -> None:
    assert levels_table({"fid": None}, REACTIONS).rows == []
    assert levels_table({"fid": 1.0}, {}).rows == []


def test_other_numbers_of_images_are_named() -> None:
    assert caveat({"protocol": {"n": 100, "reference_n": 50}}, REACTIONS) == ""
    assert "1,000 images against 50" in caveat({"protocol": {"n": 1000, "reference_n": 50}}, REACTIONS)
