"""A re-detected candidate must be an object."""

import numpy as np
import pytest

from annotate.propagators.light import presence, tracker
from annotate.propagators.light.crops import QUICK, THOROUGH, CropWindow, window_around_mask
from annotate.propagators.light.refine import is_object, observation_network_input
from annotate.propagators.light.tracker import Tracker


def fitted_tracker(picture, mask, effort):
    light_tracker = Tracker(effort)
    light_tracker.fit(picture, mask.astype(np.float32))
    light_tracker.start(picture, mask)
    return light_tracker


@pytest.mark.parametrize("effort", [THOROUGH, QUICK])
def test_a_monster_is_an_object_and_a_floor_is_not(monsters, effort):
    picture, monster_masks = monsters
    for mask in monster_masks:
        light_tracker, window = fitted_tracker(picture, mask, effort), window_around_mask(mask)
        assert is_object(light_tracker.observe_window(picture, window))
        assert not is_object(
            light_tracker.observe_window(picture, CropWindow(100, 450, window.side))
        )


def test_network_input_of_an_observation(monsters):
    picture, [mask, *_] = monsters
    light_tracker, window = fitted_tracker(picture, mask, QUICK), window_around_mask(mask)
    prior = window.crop(mask.astype(np.float32), QUICK.crop_side // 2, replicate_border=False)
    searched, tracked = (
        light_tracker.observe_window(picture, window),
        light_tracker.observe_window(picture, window, prior),
    )
    searched.score[:] = 7
    assert observation_network_input(searched, 0).shape == (6, 64, 64)
    assert (observation_network_input(searched, 0)[0] == 2).all() and not observation_network_input(
        searched, 0
    )[2:5].any()
    layers = observation_network_input(tracked, 20)
    inside = window.crop(mask.astype(np.float32), 64, replicate_border=False) > 0.5
    assert (layers[2] > 0.5)[inside].mean() > 0.95 and layers[4].all()
    assert layers[1][inside].mean() > layers[1][~inside].mean() + 0.5


def test_a_candidate_must_be_an_object_if_the_prompt_was_one(monsters, monkeypatch):
    picture, [mask, *_] = monsters
    size_wh, grey = picture.shape[1::-1], picture.mean(axis=2).astype(np.uint8)
    detected = []
    for prompt_is_object, verdict in ((True, True), (True, False), (False, False)):
        monkeypatch.setattr(tracker, "is_object", lambda _, verdict=prompt_is_object: verdict)
        light_tracker = fitted_tracker(picture, mask, THOROUGH)
        light_tracker._target.frames_lost = 3
        monkeypatch.setattr(presence, "is_object", lambda _, verdict=verdict: verdict)
        updates = [
            light_tracker.update(light_tracker.observe(picture, grey, grey), None, size_wh)
            for _ in range(3)
        ]
        detected.append(any(each is not None for each, _ in updates))
    assert detected == [True, False, True]
