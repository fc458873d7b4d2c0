"""3x3 convolution of windows of rows with half of the multiplications: Winograd's F(4, 3) along the rows.

Winograd 1980; Lavin and Gray 2015 (arXiv 1509.09308), with their points 0, 1, -1, 2, -2 and infinity. Four rows of the
result come from six rows of the window: six combinations of rows, six convolutions of 1 x 3, four combinations of
theirs. Applied along one axis only, so that the fast 1 x 3 kernels can be used and float32 stays accurate to some 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_CHANNELS = 64
"""With fewer channels the combinations cost more than the multiplications that they save."""
MIN_POSITIONS = 1024
"""With fewer positions the kernels cost more to prepare than they save."""


class RowConvolution:
    """A 3x3 convolution of windows (b, c, rows + 2, w) -> (b, out, rows, w), zeros beyond the left and right edge.

    Uses Winograd's form for float32 on a CPU where there are channels enough, else the plain one. Rows come cheapest
    in multiples of `step`. Kernels are kept from window to window; for the last one they are made one after another.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        weight = conv.weight
        wide = min(weight.shape[:2]) >= MIN_CHANNELS
        self.step = 4 if wide and weight.dtype is torch.float32 and weight.device.type == "cpu" else 1
        self.taps: list[Tensor] = []
        self.plain: Tensor | None = None

    def __call__(self, x: Tensor, last: bool = False) -> Tensor:
        """(b, c, rows + 2, w) -> (b, out, rows, w); `last` says that no other window follows."""
        rows = x.shape[2] - 2
        if self.step == 1 or len(x) * rows * x.shape[3] < MIN_POSITIONS:
            if self.plain is None:  # once here, lest each strip pays for it inside
                self.plain = self.conv.weight.contiguous(memory_format=torch.channels_last)
            return F.conv2d(x, self.plain, self.conv.bias, padding=(0, 1))
        if rest := rows % self.step:
            x = F.pad(x, (0, 0, 0, self.step - rest))
        if not self.taps and not last:
            self.taps = list(row_taps(self.conv.weight))
        return self._rows(x, iter(self.taps) if self.taps else row_taps(self.conv.weight))[:, :, :rows]

    def _rows(self, x: Tensor, taps: Iterator[Tensor]) -> Tensor:
        """Rows in multiples of four."""

        def convolve(x: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.conv2d(x, next(taps), bias, padding=(0, 1))

        batch, _, height, width = x.shape
        count = (height - 2) // 4
        d = [x[:, :, k : k + 4 * count - 3 : 4] for k in range(6)]
        shape = (batch, self.conv.out_channels, 4 * count, width)
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        y0, y1, y2, y3 = (y[:, :, k::4] for k in range(4))

        # v1, v2 = (d4 - 4 d2) ± (d3 - 4 d1);  v3, v4 = (d4 - d2) ± 2 (d3 - d1)
        even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
        m1 = convolve(even + odd, self.conv.bias)  # counts once in every row of the result
        m2 = convolve(even.sub_(odd))
        torch.add(m1, m2, out=y0)
        torch.sub(m1, m2, out=y1)
        del m1, m2
        even, odd = torch.sub(d[4], d[2]), torch.sub(d[3], d[1], out=odd)
        m3 = convolve(torch.add(even, odd, alpha=2))
        m4 = convolve(torch.sub(even, odd, alpha=2))
        both, difference = m3 + m4, m3.sub_(m4)
        del m3, m4
        torch.add(y0, both, alpha=4, out=y2)
        torch.add(y1, difference, alpha=8, out=y3)
        y0.add_(both)
        y1.add_(difference, alpha=2)
        del both, difference
        # v0 = 4 (d0 - d2) + (d4 - d2);  v5 = (d5 - d3) - 4 (d3 - d1)
        y0.add_(convolve(even.add_(d[0] - d[2], alpha=4)))
        y3.add_(convolve(torch.sub(d[5], d[3]).sub_(odd, alpha=4)))
        return y


def row_taps(weight: Tensor) -> Iterator[Tensor]:
    """(out, in, 3, 3) -> kernels (out, in, 1, 3) in channels-last order, of v1, v2, v3, v4, v0 and v5 as they are used.

    v0 takes a / 4 of the rows (a, b, c); v1, v2: -(a + c) / 6 -+ b / 6; v3, v4: a / 24 + c / 6 +- b / 12; v5: c.
    """
    a, b, c = weight.contiguous(memory_format=torch.channels_last).split(1, dim=2)
    outer, inner = (a + c).div_(-6), b / 6
    yield outer - inner
    yield outer + inner
    fine = torch.div(a, 24, out=outer).add_(c, alpha=1 / 6)
    step = inner.div_(2)
    yield fine + step
    yield fine.sub_(step)
    yield a / 4
    yield c.contiguous(memory_format=torch.channels_last)


class DoublingConvolution:
    """A 3x3 convolution of rows that are doubled in both directions first: (b, c, n + 2, w) -> (b, out, 2 n, 2 w).

    Of the rows 2i and 2i + 1 that row i becomes, the kernel's rows (a, b, c) see a x[i-1] + (b+c) x[i] and
    (a+b) x[i] + c x[i+1]. With s = (a+b+c) x[i] that is s - a (x[i] - x[i-1]) and s + c (x[i+1] - x[i]): three
    convolutions in place of four, in float32 on a CPU. Kernels are kept as those of `RowConvolution`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.by_rows = conv.weight.dtype is torch.float32 and conv.weight.device.type == "cpu"
        self.kernels: list[Tensor] = []

    def __call__(self, x: Tensor, last: bool = False) -> Tensor:
        """(b, c, n + 2, w) -> (b, out, 2 n, 2 w), zeros beyond the left and right edge; `last`: no window follows."""
        if not self.kernels and not last:
            self.kernels = list(self._made())
        kernels = iter(self.kernels) if self.kernels else self._made()
        if not self.by_rows:  # what the outer rows give is dropped: their neighbours are in other strips
            return F.conv_transpose2d(x, next(kernels), self.conv.bias, stride=2, padding=(3, 1))

        def widen(x: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.conv_transpose2d(x, next(kernels), bias, stride=(1, 2), padding=(0, 1))

        batch, _, height, width = x.shape
        shape = (batch, self.conv.out_channels, 2 * (height - 2), 2 * width)
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        shared = widen(x[:, :, 1:-1], self.conv.bias)
        torch.sub(shared, widen(x[:, :, 1:-1] - x[:, :, :-2]), out=y[:, :, 0::2])
        torch.add(shared, widen(x[:, :, 2:] - x[:, :, 1:-1]), out=y[:, :, 1::2])
        return y

    def _made(self) -> Iterator[Tensor]:
        return doubling_rows(self.conv.weight) if self.by_rows else iter([lean_doubling_kernel(self.conv.weight)])


def doubling_rows(weight: Tensor) -> Iterator[Tensor]:
    """(out, in, 3, 3) -> kernels (in, out, 1, 4) of all rows together, of the first row, and of the last."""
    taps = weight.permute(2, 3, 1, 0).contiguous()
    for row in (None, 0, 2):
        line = taps.sum(0) if row is None else taps[row]
        kernel = taps.new_zeros(taps.shape[2], 1, 4, taps.shape[3])
        for column in range(3):
            kernel[:, 0, 2 - column : 4 - column] += line[column][:, None]
        yield kernel.permute(0, 3, 1, 2)
        del kernel, line


def lean_doubling_kernel(weight: Tensor) -> Tensor:
    """`blocks.doubling_kernel` in channels-last order, made in half of the memory and without a gradient."""
    taps = (weight if weight.dtype == torch.float64 else weight.float()).permute(2, 3, 1, 0).contiguous()
    _, _, inner, outer = taps.shape
    kernel = taps.new_zeros(inner, 4, 4, outer)
    for row, column in product(range(3), range(3)):
        kernel[:, 2 - row : 4 - row, 2 - column : 4 - column] += taps[row, column][:, None, None]
    return kernel.to(weight.dtype).permute(0, 3, 1, 2)
