"""Schedules of training: eta of GBBN over the progress of the run."""

__all__ = ['gbbn_eta']


def gbbn_eta(progress: float, gamma: float = 2.0) -> float:
    """Weight of the natural branch in generalised bilateral-branch training.

    .. math::
        \\eta = 1 - \\mathrm{progress}^\\gamma

    gamma = 2 is the parabola of BBN (Zhou et al., CVPR 2020). A small gamma hands over to the re-balanced branch early,
    a large one late.

    Args:
        progress (float): Share of the training that is done; clamped to [0, 1].
        gamma (float): Positive exponent. Defaults to 2.

    Returns:
        float: eta in [0, 1]; 1 at the start, 0 at the end, monotone.

    Raises:
        ValueError: if gamma is not positive or progress is not a number.

    Example:
        >>> [gbbn_eta(t, 2.0) for t in (0, 0.5, 1)]
        [1.0, 0.75, 0.0]
    """
    if not gamma > 0:
        raise ValueError(f'Expected `gamma` to be positive, but got {gamma}; gamma=2 is the parabola of BBN.')
    if progress != progress:
        raise ValueError('Expected `progress` to be a number in [0, 1], but got NaN.')
    return 1.0 - min(max(float(progress), 0.0), 1.0)**gamma
