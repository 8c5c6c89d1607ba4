"""Whole-batch counterparts of mmpretrain's transforms: the same settings and distribution, one call for N images.

Differences: colour operations take the channels for RGB, which is what CIFAR's are, and mmcv's take them for BGR;
``Rotate`` with a single number for ``pad_val`` fills all channels, mmcv's the first alone; ``Sharpness`` leaves the
border pixels, as PIL, mmcv's reflects the image there.

Every image has random numbers of its own. They come as an argument, (N, ``draws``) uniform in [0, 1), so the result
does not depend on the device; images are (N, C, H, W), uint8 or float in 0..255.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Number

import torch
import torch.nn.functional as F
from mmpretrain.datasets.transforms import auto_augment
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

__all__ = ['WholeBatch']


def _integers(u: Tensor, high: int) -> Tensor:
    """Uniform integers 0 .. high - 1."""
    return (u * high).long().clamp_(max=high - 1)


def _column(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def _apply(operation: Callable[..., Tensor], chosen: Tensor, x: Tensor, *arguments: Tensor,
           overwrite: bool = False) -> Tensor:
    """``operation`` on the chosen images alone; on a GPU on all of them, since to count the chosen would be a sync.

    ``overwrite`` lets the CPU write into x, which must then be the caller's own.
    """
    if not x.is_cpu:
        return torch.where(_column(chosen), operation(x, *arguments), x)
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return x
    changed = operation(x[rows], *(a[rows] for a in arguments))
    return x.index_copy_(0, rows, changed) if overwrite else x.index_copy(0, rows, changed)


class RandomCrop:
    """mmpretrain's ``RandomCrop`` with constant padding, and the flip that follows it: one copy for both."""

    draws = 2
    flip: RandomFlip | None = None

    def __init__(self, transform) -> None:
        if transform.padding_mode != 'constant' or transform.pad_if_needed or not isinstance(transform.pad_val, Number):
            raise ValueError('On the device RandomCrop knows padding_mode="constant", pad_if_needed=False and a single '
                             f'number as pad_val alone, but got {transform}.')
        padding = transform.padding or 0
        padding = (padding, ) * 2 if isinstance(padding, int) else tuple(padding)
        left, top, right, bottom = padding * 2 if len(padding) == 2 else padding
        self.padding, self.fill, self.size = (left, right, top, bottom), transform.pad_val, transform.crop_size

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        images = F.pad(images, self.padding, value=self.fill)
        n, c, height, width = images.shape
        h, w = self.size
        if h > height or w > width:
            raise ValueError(f'RandomCrop: crop_size={self.size} is larger than the padded image, {height} x {width}.')
        rows = _integers(u[:, :1], height - h + 1) + torch.arange(h, device=u.device)
        cols = _integers(u[:, 1:2], width - w + 1) + torch.arange(w, device=u.device)
        if self.flip is not None:
            mirrored = u[:, 2:] < self.flip.prob
            if self.flip.dim == -1:
                cols = torch.where(mirrored, cols.flip(1), cols)
            else:
                rows = torch.where(mirrored, rows.flip(1), rows)
        index = (rows[:, :, None] * width + cols[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
        return images.reshape(n, c, height * width).gather(2, index).view(n, c, h, w)


class RandomResizedCrop:
    """mmpretrain's ``RandomResizedCrop``: the first of ``max_attempts`` boxes that fits, else the centre, resized."""

    def __init__(self, transform) -> None:
        if transform.interpolation not in ('nearest', 'bilinear', 'bicubic'):
            raise ValueError("On the device RandomResizedCrop knows interpolation='nearest', 'bilinear' or 'bicubic', "
                             f'but got {transform.interpolation!r}.')
        self.size, self.attempts, self.mode = tuple(transform.scale), transform.max_attempts, transform.interpolation
        self.area, self.aspect = transform.crop_ratio_range, transform.aspect_ratio_range
        self.draws = 2 * self.attempts + 2

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        area, log_aspect = u[:, :self.attempts], u[:, self.attempts:-2]
        area = (self.area[0] + (self.area[1] - self.area[0]) * area) * height * width
        low, high = map(math.log, self.aspect)
        aspect = torch.exp(low + (high - low) * log_aspect)
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        ratio = width / height  # the fallback: the largest central box of an allowed aspect
        central = (height, width)
        if not self.aspect[0] <= ratio <= self.aspect[1]:
            central = (round(width / self.aspect[0]), width) if ratio < self.aspect[0] else (
                height, round(height * self.aspect[1]))
        first, found = fits.int().argmax(1, keepdim=True), fits.any(1)
        h = torch.where(found, h.gather(1, first)[:, 0], central[0])
        w = torch.where(found, w.gather(1, first)[:, 0], central[1])
        top = torch.where(found, (u[:, -2] * (height - h + 1)).floor(), (height - h) // 2).minimum(height - h)
        left = torch.where(found, (u[:, -1] * (width - w + 1)).floor(), (width - w) // 2).minimum(width - w)

        def axis(start, length, size, full):
            """Centres of ``size`` output pixels inside the box, kept half a pixel from its border as OpenCV does."""
            centres = (torch.arange(size, device=u.device) + 0.5) * (length / size)[:, None]
            centres = start[:, None] + centres.clamp_min(0.5).minimum((length - 0.5)[:, None])
            return 2 * centres / full - 1

        rows, cols = axis(top, h, self.size[0], height), axis(left, w, self.size[1], width)
        grid = torch.stack([cols[:, None, :].expand(-1, self.size[0], -1),
                            rows[:, :, None].expand(-1, -1, self.size[1])], -1)
        resized = F.grid_sample(images.float(), grid, mode=self.mode, padding_mode='border', align_corners=False)
        return resized.round().clamp(0, 255).to(images.dtype)


class RandomFlip:
    """mmcv's ``RandomFlip`` in one direction."""

    draws = 1

    def __init__(self, transform) -> None:
        if transform.direction not in ('horizontal', 'vertical') or not isinstance(transform.prob, float):
            raise ValueError("On the device RandomFlip knows one probability and direction='horizontal' or 'vertical', "
                             f'but got {transform}.')
        self.prob, self.dim = transform.prob, -1 if transform.direction == 'horizontal' else -2

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        return _apply(lambda x: x.flip(self.dim), u[:, 0] < self.prob, images)


class RandomGrayscale:
    """mmcv's ``RandomGrayscale`` that keeps three channels."""

    draws = 1

    def __init__(self, transform) -> None:
        if not transform.keep_channels:
            raise ValueError('On the device RandomGrayscale keeps the channels: set keep_channels=True.')
        self.prob = transform.prob
        weights = torch.tensor(transform.channel_weights, dtype=torch.float64)  # as NumPy, whose sums are cut
        self.weights = (weights / weights.sum()).tolist()

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        gray = sum(w * images[:, i:i + 1].double() for i, w in enumerate(self.weights))
        return torch.where(_column(u[:, 0] < self.prob), gray.expand_as(images).to(images.dtype), images)


# Photometric and affine operations on float images in 0..255 with one magnitude an image.


def _blend(degenerate: Callable[[Tensor], Tensor]):
    """PIL's enhancement: towards (factor < 1) or away from (factor > 1) a degenerate image."""

    def operation(x: Tensor, magnitude: Tensor) -> Tensor:
        other = degenerate(x.to(torch.uint8)).float()
        return (other + _column(1 + magnitude) * (x - other)).clamp(0, 255).trunc()

    return operation


def _posterize(x: Tensor, bits: Tensor) -> Tensor:
    step = _column(2.0**(8 - bits.ceil()))
    return (x / step).floor() * step


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by ``shift`` turns, saturation and value kept (the hexcone model of HSV)."""
    high, low = x.amax(1), x.amin(1)
    chroma = (high - low).clamp_min(1e-6)
    r, g, b = x.unbind(1)
    hue = torch.where(high == r, (g - b) / chroma, torch.where(high == g, 2 + (b - r) / chroma, 4 + (r - g) / chroma))
    hue = hue + 6 * shift.view(-1, 1, 1)
    channels = [(hue + offset) % 6 for offset in (5, 3, 1)]
    spread = high - low
    return torch.stack([high - spread * torch.minimum(k, 4 - k).clamp(0, 1) for k in channels], 1).round()


def _cutout(x: Tensor, size: Tensor, u: Tensor, fill: float) -> Tensor:
    """A square of ``size`` pixels around a uniform point, clipped by the border: mmcv.cutout."""
    h, w = x.shape[-2:]
    rows, cols = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    size = size.int()
    top = (u[:, 0] * h - size / 2).clamp_min(0).int()
    left = (u[:, 1] * w - size / 2).clamp_min(0).int()
    inside = [(index >= start[:, None]) & (index < (start + size)[:, None])
              for index, start in ((rows, top), (cols, left))]
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], fill)


_PHOTOMETRIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'AutoContrast': lambda x, m: tv.autocontrast(x.to(torch.uint8)).float(),
    'Equalize': lambda x, m: tv.equalize(x.to(torch.uint8)).float(),
    'Invert': lambda x, m: 255 - x,
    'Solarize': lambda x, m: torch.where(x < _column(m), x, 255 - x),
    'SolarizeAdd': lambda x, m: torch.where(x < 128, (x + _column(m)).clamp_max(255), x),
    'Posterize': _posterize,
    'Contrast': _blend(lambda x: tv.adjust_contrast(x, 0.0)),
    'ColorTransform': _blend(lambda x: tv.adjust_saturation(x, 0.0)),
    'Brightness': _blend(torch.zeros_like),
    'Sharpness': _blend(lambda x: tv.adjust_sharpness(x, 0.0)),
    'Hue': _hue,
}
_AFFINE = ('Shear', 'Translate', 'Rotate')
_MAGNITUDE = {'Shear': 'magnitude', 'Translate': 'magnitude', 'Rotate': 'angle', 'Solarize': 'thr', 'Posterize': 'bits',
              'SolarizeAdd': 'magnitude',
              'Contrast': 'magnitude', 'ColorTransform': 'magnitude', 'Brightness': 'magnitude',
              'Sharpness': 'magnitude', 'Cutout': 'shape'}


class _Kind:
    """What an operation does apart from its magnitude: name, direction, fill, interpolation."""

    def __init__(self, leaf) -> None:
        self.name = type(leaf).__name__
        self.direction = getattr(leaf, 'direction', None)
        self.interpolation = getattr(leaf, 'interpolation', None)
        fill = getattr(leaf, 'pad_val', 0)
        if not isinstance(fill, (int, float)) and len(set(fill)) > 1:
            raise ValueError(f'On the device {self.name} fills with one value for all channels, but got '
                             f'pad_val={fill}.')
        self.fill = float(fill if isinstance(fill, (int, float)) else fill[0])
        if self.name == 'SolarizeAdd' and leaf.thr != 128:
            raise ValueError(f'On the device SolarizeAdd knows thr=128 alone, but got {leaf.thr}.')
        if self.name not in (*_PHOTOMETRIC, *_AFFINE, 'Cutout'):
            raise ValueError(f'{self.name} has no counterpart on the device; there are '
                             f'{sorted((*_PHOTOMETRIC, *_AFFINE, "Cutout"))}. Remove it, or remove '
                             'DeviceAugmentationHook.')
        self.key = (self.name, self.direction, self.interpolation, self.fill)

    def __call__(self, x: Tensor, magnitude: Tensor, u: Tensor) -> Tensor:
        if self.name in _PHOTOMETRIC:
            return _PHOTOMETRIC[self.name](x, magnitude)
        if self.name == 'Cutout':
            return _cutout(x, magnitude, u, self.fill)
        return self._affine(x, magnitude)

    def _affine(self, x: Tensor, m: Tensor) -> Tensor:
        """Inverse maps of mmcv's imshear, imtranslate and imrotate: where each output pixel comes from."""
        height, width = x.shape[-2:]
        rows = torch.arange(height, device=x.device, dtype=torch.float32).view(1, -1, 1)
        cols = torch.arange(width, device=x.device, dtype=torch.float32).view(1, 1, -1)
        m, horizontal = m.view(-1, 1, 1), self.direction == 'horizontal'
        if self.name == 'Shear':
            source = (rows, cols - m * rows) if horizontal else (rows - m * cols, cols)
        elif self.name == 'Translate':
            source = (rows, cols - m * width) if horizontal else (rows - m * height, cols)
        else:  # clockwise about the centre
            cy, cx, angle = (height - 1) / 2, (width - 1) / 2, torch.deg2rad(m)
            dy, dx = rows - cy, cols - cx
            source = cy - dx * angle.sin() + dy * angle.cos(), cx + dx * angle.cos() + dy * angle.sin()
        rows, cols = torch.broadcast_tensors(*source)
        grid = torch.stack([2 * cols / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1).expand(len(x), -1, -1, -1)
        moved = F.grid_sample(x - self.fill, grid, mode=self.interpolation, padding_mode='zeros', align_corners=True)
        return (moved + self.fill).round().clamp(0, 255)


class _Policy:
    """Some of several operations for each image: what AutoAugment, RandAugment and a single operation share.

    Args:
        choices (list[list]): P sub-policies of mmpretrain's ``BaseAugTransform``.
        rounds (int): How often one of them is drawn.
    """

    def __init__(self, choices: list[list], rounds: int = 1) -> None:
        self.rounds, self.stages = rounds, max(map(len, choices))
        kinds: dict[tuple, _Kind] = {}
        table = torch.zeros(len(choices), self.stages, 8)  # op, start, slope, level, std, total, prob, negative
        for p, leaves in enumerate(choices):
            for s, leaf in enumerate(leaves):
                kind = _Kind(leaf)
                op = list(kinds).index(kind.key) + 1 if kind.key in kinds else len(kinds) + 1
                kinds.setdefault(kind.key, kind)
                table[p, s] = torch.tensor([op, *self._magnitude(leaf), leaf.prob, leaf.random_negative_prob])
        self.kinds, self.table = list(kinds.values()), table
        self.draws = rounds * (1 + self.stages * 5)

    @staticmethod
    def _magnitude(leaf) -> tuple[float, ...]:
        """Magnitude = start + slope * level / total, the level noisy by std (negative: uniform below the level)."""
        if leaf.magnitude_range is None:
            fixed = getattr(leaf, _MAGNITUDE.get(type(leaf).__name__, ''), 0)
            if not isinstance(fixed, (int, float)):
                raise ValueError(f'On the device {type(leaf).__name__} needs one number, but got {fixed}.')
            return float(fixed), 0.0, 0.0, 0.0, 1.0
        start, end = leaf.magnitude_range
        std = -1.0 if leaf.magnitude_std == 'inf' else max(0.0, leaf.magnitude_std)
        return start, end - start, leaf.magnitude_level, std, leaf.total_level

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        x, dtype = images.to(torch.float32, copy=True), images.dtype
        table = self.table.to(u.device, non_blocking=True)
        u = u.view(len(u), self.rounds, -1)
        for r in range(self.rounds):
            chosen = table[_integers(u[:, r, 0], len(table))]
            v = u[:, r, 1:].view(len(u), self.stages, 5)
            for s in range(self.stages):
                op, start, slope, level, std, total, prob, negative = chosen[:, s].unbind(1)
                noise, sign, active = v[:, s, 0], v[:, s, 1] < negative, v[:, s, 2] <= prob
                normal = math.sqrt(2) * torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6))
                noisy = (level + std * normal).clamp_min(0).minimum(total)
                level = torch.where(std < 0, noise * level, torch.where(std > 0, noisy, level))
                magnitude = start + slope * level / total
                magnitude = torch.where(sign, -magnitude, magnitude)
                op = torch.where(active, op, 0)
                for number, kind in enumerate(self.kinds, 1):
                    x = _apply(kind, op == number, x, magnitude, v[:, s, 3:], overwrite=True)
        return x.to(dtype)


class ColorJitter:
    """mmpretrain's ``ColorJitter``: brightness, contrast, saturation and hue in an order of each image's own."""

    draws = 8

    def __init__(self, transform) -> None:
        self.settings = [(i, name, limits) for i, (name, limits) in enumerate((
            ('Brightness', transform.brightness), ('Contrast', transform.contrast),
            ('ColorTransform', transform.saturation), ('Hue', transform.hue))) if limits is not None]

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        x, order = images.to(torch.float32, copy=True), u[:, :4].argsort(1)
        for place in range(4):
            for i, name, (low, high) in self.settings:  # each image matches one of them, or none
                magnitude = low + (high - low) * u[:, 4 + i] - float(name != 'Hue')  # the operations take factor - 1
                x = _apply(_PHOTOMETRIC[name], order[:, place] == i, x, magnitude, overwrite=True)
        return x.to(images.dtype)


class RandomApply:
    """mmcv's ``RandomApply``."""

    def __init__(self, transform) -> None:
        self.inner, self.prob = WholeBatch(transform.transforms.transforms), transform.prob
        self.draws = 1 + self.inner.draws

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        return _apply(self.inner, u[:, 0] < self.prob, images, u[:, 1:])


_COUNTERPARTS: dict[str, Callable] = {
    'RandomCrop': RandomCrop,
    'RandomResizedCrop': RandomResizedCrop,
    'RandomFlip': RandomFlip,
    'RandomGrayscale': RandomGrayscale,
    'ColorJitter': ColorJitter,
    'RandomApply': RandomApply,
    'AutoAugment': lambda t: _Policy([list(choice.transforms) for choice in t.transforms]),
    'RandAugment': lambda t: _Policy([[leaf] for leaf in t.transforms], t.num_policies),
}


class WholeBatch:
    """A pipeline's transforms for whole batches.

    Args:
        transforms (Sequence): Transform objects: RandomCrop, RandomResizedCrop, RandomFlip, RandomGrayscale,
            ColorJitter, RandomApply, AutoAugment, RandAugment, and the operations
            of mmpretrain's auto_augment but GaussianBlur.
            ``PackInputs`` is left out.

    Attributes:
        draws (int): Random numbers that an image needs.

    Raises:
        ValueError: naming a transform, or a setting of one, that has no counterpart.
    """

    def __init__(self, transforms) -> None:
        self.steps = []
        for transform in transforms:
            name = type(transform).__name__
            if name == 'PackInputs':
                continue
            if name == 'RandomFlip' and self.steps and isinstance(last := self.steps[-1], RandomCrop) and not last.flip:
                last.flip, last.draws = RandomFlip(transform), 3
            elif name in _COUNTERPARTS:
                self.steps.append(_COUNTERPARTS[name](transform))
            elif isinstance(transform, auto_augment.BaseAugTransform):
                self.steps.append(_Policy([[transform]]))
            else:
                raise ValueError(f'{name} has no counterpart on the device; there are {sorted(_COUNTERPARTS)} and '
                                 "the operations of mmpretrain's auto_augment. Remove it, or remove "
                                 'DeviceAugmentationHook.')
        self.draws = sum(step.draws for step in self.steps)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Augment.

        Args:
            images (Tensor): (N, C, H, W), uint8 or float in 0..255.
            u (Tensor): (N, :attr:`draws`) uniform in [0, 1), on the device of the images.

        Returns:
            Tensor: (N, C, H', W') of the same dtype.
        """
        for step in self.steps:
            images = step(images, u[:, :step.draws])
            u = u[:, step.draws:]
        return images
