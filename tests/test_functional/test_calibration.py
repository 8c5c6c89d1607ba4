import math

import numpy as np
import pytest
import torch

from allnc_mm.functional.calibration import calibration_bins, calibration_error


def naive_bins(confidence, correct, weight, num_bins):
    bins = np.zeros((3, num_bins))
    for value, right, w in zip(confidence, correct, weight):
        for m in range(num_bins):
            if (m / num_bins < value <= (m + 1) / num_bins) or (m == 0 and value == 0):
                bins[:, m] += [w, w * right, w * value]
    return bins


@pytest.mark.parametrize('num_bins', [1, 7, 15])
def test_bins_equal_the_definition(num_bins):
    rng = np.random.RandomState(0)
    # every edge, as m / M, besides random values: (a, b] and 0 in the first bin
    confidence = np.concatenate([rng.rand(200), np.arange(num_bins + 1) / num_bins])
    correct, weight = rng.rand(len(confidence)) < .6, rng.rand(len(confidence))
    bins = calibration_bins(torch.from_numpy(confidence), torch.from_numpy(correct), num_bins,
                            torch.from_numpy(weight))
    assert bins.dtype == torch.float64 and bins.shape == (3, num_bins)
    expected = naive_bins(confidence, correct, weight, num_bins)
    np.testing.assert_allclose(bins.numpy(), expected, atol=1e-12)

    count, right, conf = expected
    filled = count > 0
    gaps = np.abs(right[filled] / count[filled] - conf[filled] / count[filled])
    assert calibration_error(bins) == pytest.approx((gaps * count[filled]).sum() / count.sum(), abs=1e-12)
    assert calibration_error(bins, norm='max') == pytest.approx(gaps.max(), abs=1e-12)


def test_edges_belong_to_the_lower_bin():
    count, _, _ = calibration_bins(torch.tensor([0., .25, .5, 1.]), torch.ones(4), num_bins=4)
    assert count.tolist() == [2, 1, 0, 1]


def test_bins_add_up():
    confidence, correct = torch.rand(101), torch.rand(101) < .5
    parts = calibration_bins(confidence[:37], correct[:37]) + calibration_bins(confidence[37:], correct[37:])
    torch.testing.assert_close(parts, calibration_bins(confidence, correct), atol=1e-12, rtol=0)


def test_fixtures():
    eighty = calibration_bins(torch.full((10, ), .8, dtype=torch.float64), torch.tensor([1] * 8 + [0] * 2))
    assert calibration_error(eighty) == pytest.approx(0, abs=1e-12)
    certain = calibration_bins(torch.ones(10), torch.tensor([1, 0] * 5))
    assert calibration_error(certain) == .5 and calibration_error(certain, norm='max') == .5
    assert math.isnan(calibration_error(calibration_bins(torch.zeros(0), torch.zeros(0))))
    assert math.isnan(calibration_error(torch.zeros(3, 15), norm='max'))


def test_bad_input():
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\]'):
        calibration_bins(torch.tensor([1.5]), torch.tensor([1]))
    with pytest.raises(ValueError, match='not be NaN'):
        calibration_bins(torch.tensor([float('nan')]), torch.tensor([1]))
    with pytest.raises(ValueError, match='same shape'):
        calibration_bins(torch.rand(3), torch.ones(2))
    with pytest.raises(ValueError, match='num_bins must be a positive integer, but got 0'):
        calibration_bins(torch.rand(3), torch.ones(3), num_bins=0)
    with pytest.raises(ValueError, match="norm must be 'l1'"):
        calibration_error(torch.zeros(3, 15), norm='l2')
