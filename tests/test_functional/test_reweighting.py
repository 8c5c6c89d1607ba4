import math

import numpy as np
import pytest

from allnc_mm.functional import class_weights

COUNTS = [900, 90, 9, 1]


@pytest.mark.parametrize('scheme', ['inverse', 'median', 'log'])
def test_average_pixel_weighs_one(scheme):
    weights = class_weights(COUNTS, scheme)
    assert (weights * np.array(COUNTS)).sum() / 1000 == pytest.approx(1)
    assert (np.diff(weights) > 0).all()
    np.testing.assert_allclose(class_weights(np.array(COUNTS) / 7, scheme), weights)  # shares will do


def test_formulas():
    for power in (0, 0.5, 1, 2):
        naive = [(n / 1000)**-power for n in COUNTS]
        norm = sum(w * n / 1000 for w, n in zip(naive, COUNTS))
        np.testing.assert_allclose(class_weights(COUNTS, power=power), [w / norm for w in naive])
    frequency = [.9, .1, .1, .01]
    ratio = class_weights(COUNTS, 'median', frequency=frequency)
    np.testing.assert_allclose(ratio / ratio[1], [1 / 9, 1, 1, 10])
    log = class_weights(COUNTS, 'log')
    assert log[3] / log[0] == pytest.approx(math.log(1.92) / math.log(1.021))


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_per_class=[1, 0]), r'not for classes \[1\]'),
    (dict(num_per_class=[1, float('nan')]), 'positive count'),
    (dict(num_per_class=COUNTS, scheme='square'), 'scheme'),
    (dict(num_per_class=COUNTS, power=float('inf')), 'finite'),
])
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        class_weights(**kwargs)
