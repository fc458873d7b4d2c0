"""3x3 convolution of windows of rows with half of the multiplications: Winograd's F(4, 3) along the rows.

Winograd 1980; Lavin and Gray 2015 (arXiv 1509.09308), with their points 0, 1, -1, 2, -2 and infinity. Four rows of the
result come from six rows of the window: six combinations of rows, six convolutions of 1 x 3, four combinations of
theirs. Applied along one axis only, so that the fast 1 x 3 kernels can be used and float32 stays accurate to some 1e-6.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = (
    (1 / 4, 0, 0),
    (-1 / 6,) * 3,
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""What each of the six convolutions takes of the three rows of the kernel."""
MIN_CHANNELS = 64
"""With fewer channels the combinations cost more than the multiplications that they save."""
MIN_POSITIONS = 1024
"""With fewer positions the kernels cost more to prepare than they save."""


class RowConvolution:
    """A 3x3 convolution of windows (b, c, rows + 2, w) -> (b, out, rows, w), zeros beyond the left and right edge.

    Uses Winograd's form for float32 on a CPU where there are channels enough, else the plain one. Rows come cheapest
    in multiples of `step`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        weight = conv.weight
        wide = min(weight.shape[:2]) >= MIN_CHANNELS
        self.step = 4 if wide and weight.dtype is torch.float32 and weight.device.type == "cpu" else 1
        self.taps: list[Tensor] = []
        self.plain: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, rows + 2, w) -> (b, out, rows, w)."""
        rows = x.shape[2] - 2
        if self.step == 1 or len(x) * rows * x.shape[3] < MIN_POSITIONS:
            if self.plain is None:  # once here, lest each strip pays for it inside
                self.plain = self.conv.weight.contiguous(memory_format=torch.channels_last)
            return F.conv2d(x, self.plain, self.conv.bias, padding=(0, 1))
        if rest := rows % self.step:
            x = F.pad(x, (0, 0, 0, self.step - rest))
        return self._rows(x)[:, :, :rows]

    def _rows(self, x: Tensor) -> Tensor:
        """Rows in multiples of four."""
        if not self.taps:
            self.taps = row_taps(self.conv.weight)
        batch, _, height, width = x.shape
        count = (height - 2) // 4
        d = [x[:, :, k : k + 4 * count - 3 : 4] for k in range(6)]
        shape = (batch, self.conv.out_channels, 4 * count, width)
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        y0, y1, y2, y3 = (y[:, :, k::4] for k in range(4))

        # v1, v2 = (d4 - 4 d2) ± (d3 - 4 d1);  v3, v4 = (d4 - d2) ± 2 (d3 - d1)
        even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
        m1 = self._convolve(even + odd, 1, self.conv.bias)  # counts once in every row of the result
        m2 = self._convolve(even.sub_(odd), 2)
        torch.add(m1, m2, out=y0)
        torch.sub(m1, m2, out=y1)
        del m1, m2
        even, odd = torch.sub(d[4], d[2]), torch.sub(d[3], d[1], out=odd)
        m3 = self._convolve(torch.add(even, odd, alpha=2), 3)
        m4 = self._convolve(torch.sub(even, odd, alpha=2), 4)
        both, difference = m3 + m4, m3.sub_(m4)
        del m3, m4
        torch.add(y0, both, alpha=4, out=y2)
        torch.add(y1, difference, alpha=8, out=y3)
        y0.add_(both)
        y1.add_(difference, alpha=2)
        del both, difference
        # v0 = 4 (d0 - d2) + (d4 - d2);  v5 = (d5 - d3) - 4 (d3 - d1)
        y0.add_(self._convolve(even.add_(d[0] - d[2], alpha=4), 0))
        y3.add_(self._convolve(torch.sub(d[5], d[3]).sub_(odd, alpha=4), 5))
        return y

    def _convolve(self, x: Tensor, k: int, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, self.taps[k], bias, padding=(0, 1))


def row_taps(weight: Tensor) -> list[Tensor]:
    """(out, in, 3, 3) -> the six kernels (out, in, 1, 3), in channels-last order."""
    a, b, c = weight.contiguous(memory_format=torch.channels_last).split(1, dim=2)
    outer, inner = (a + c).div_(-6), b / 6
    fine = (a / 24).add_(c, alpha=1 / 6)
    taps = [a / 4, outer - inner, outer + inner, torch.add(fine, b, alpha=1 / 12), fine.sub_(b, alpha=1 / 12), c]
    return [tap.contiguous(memory_format=torch.channels_last) for tap in taps]


class DoublingConvolution:
    """A 3x3 convolution of rows that are doubled in both directions first: (b, c, n + 2, w) -> (b, out, 2 n, 2 w).

    Of the rows 2i and 2i + 1 that row i becomes, the kernel's rows (a, b, c) see a x[i-1] + (b+c) x[i] and
    (a+b) x[i] + c x[i+1]. With s = (a+b+c) x[i] that is s - a (x[i] - x[i-1]) and s + c (x[i+1] - x[i]): three
    convolutions in place of four, in float32 on a CPU.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.by_rows = conv.weight.dtype is torch.float32 and conv.weight.device.type == "cpu"
        kernel = lean_doubling_kernel(conv.weight) if not self.by_rows else None
        self.kernels = doubling_rows(conv.weight) if kernel is None else (kernel,)

    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, n + 2, w) -> (b, out, 2 n, 2 w), zeros beyond the left and right edge."""
        if not self.by_rows:  # what the outer rows give is dropped: their neighbours are in other strips
            return F.conv_transpose2d(x, self.kernels[0], self.conv.bias, stride=2, padding=(3, 1))
        batch, _, height, width = x.shape
        steps = x[:, :, 1:] - x[:, :, :-1]
        shape = (batch, self.conv.out_channels, 2 * (height - 2), 2 * width)
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        shared = self._widen(x[:, :, 1:-1], 1, self.conv.bias)
        torch.sub(shared, self._widen(steps[:, :, :-1], 0), out=y[:, :, 0::2])
        torch.add(shared, self._widen(steps[:, :, 1:], 2), out=y[:, :, 1::2])
        return y

    def _widen(self, x: Tensor, row: int, bias: Tensor | None = None) -> Tensor:
        return F.conv_transpose2d(x, self.kernels[row], bias, stride=(1, 2), padding=(0, 1))


def doubling_rows(weight: Tensor) -> tuple[Tensor, ...]:
    """(out, in, 3, 3) -> kernels (in, out, 1, 4) of the first row, of all rows together, and of the last."""
    taps = weight.permute(2, 3, 1, 0).contiguous()
    kernels = []
    for row in (taps[0], taps.sum(0), taps[2]):
        kernel = taps.new_zeros(taps.shape[2], 1, 4, taps.shape[3])
        for column in range(3):
            kernel[:, 0, 2 - column : 4 - column] += row[column][:, None]
        kernels.append(kernel.permute(0, 3, 1, 2))
    return tuple(kernels)


def lean_doubling_kernel(weight: Tensor) -> Tensor:
    """`blocks.doubling_kernel` in channels-last order, made in half of the memory and without a gradient."""
    taps = (weight if weight.dtype == torch.float64 else weight.float()).permute(2, 3, 1, 0).contiguous()
    _, _, inner, outer = taps.shape
    kernel = taps.new_zeros(inner, 4, 4, outer)
    for row, column in product(range(3), range(3)):
        kernel[:, 2 - row : 4 - row, 2 - column : 4 - column] += taps[row, column][:, None, None]
    return kernel.to(weight.dtype).permute(0, 3, 1, 2)
