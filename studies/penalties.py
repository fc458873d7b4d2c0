"""What a KL term and a discriminator do to the autoencoder: each added to the product's objective, one at a time.

    python studies/penalties.py

VAE-2.0 report, section Objective: neither is used; KL competes with alignment, and a discriminator was not needed. Both
live here alone. Writes docs/studies/penalties.{json,md,png}.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from arms import BASE, OPTIMIZER, Arm, Objective, conditions, run_arms, study_arguments
from pages import (
    Results,
    axes_of,
    difference,
    draw_curves,
    draw_points,
    findings,
    paragraphs,
    save,
    spread,
    table,
    write,
)
from torch import Tensor, nn

from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.losses import gradient_ratio

KL_WEIGHT = 1e-3
"""Of the mean over all latent numbers. Latent diffusion's 1e-6 of the sum, beside a sum over pixels, would be 1e-7 of
ours, which nothing here could tell from zero."""
START_LOG_VARIANCE = -4.0
"""At the start a latent has little noise, so that the arm is not held back by where it starts."""
ADVERSARIAL_WEIGHT, ADVERSARIAL_START = 0.2, 0.25
"""Times the ratio of gradients at the decoder's last layer; the share of the run before the discriminator counts."""
FINDINGS = (
    """The KL term costs 0.0 to 0.4 dB on scenes, less than twice what seeds differ by. The report leaves it out
    because it competes with alignment; no arm has both.""",
    """The discriminator costs 0.8 to 1.7 dB on scenes and about .05 of SSIM, in every seed. It is there for looks,
    which nothing here measures, so whether it is needed stays untested.""",
)
"""What we read from the table at the sizes that are the defaults."""


class Variational(Autoencoder):
    """The autoencoder with the other half of its posterior in use."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        assert self.quant_conv.bias is not None
        with torch.no_grad():
            self.quant_conv.weight[config.z_dim :] *= 0.1
            self.quant_conv.bias[config.z_dim :] = START_LOG_VARIANCE

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (b, z_dim, h, w) each."""
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)


class KL(Objective):
    """Latents are drawn from the posterior; its divergence from a standard normal is added."""

    def __init__(self) -> None:
        super().__init__()
        self.divergence = torch.zeros(())

    def latents(self, model: Autoencoder, x: Tensor, generator: torch.Generator) -> Tensor:
        """A draw; the divergence is kept for `extra`."""
        assert isinstance(model, Variational)
        mean, log_variance = model.posterior(x)
        self.divergence = kl(mean, log_variance)
        return mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)

    def extra(self, model: Autoencoder, x: Tensor, y: Tensor, z: Tensor, loss: Tensor, step: int) -> Tensor:
        """The weighted divergence."""
        return KL_WEIGHT * self.divergence

    @torch.no_grad()
    def measure(self, model: Autoencoder, x: Tensor) -> dict[str, float]:
        """The divergence in nats a number, and the noise of a latent in units of its deviation."""
        assert isinstance(model, Variational)
        mean, log_variance = model.posterior(x)
        noise = (log_variance / 2).exp().mean((0, 2, 3)) / mean.std((0, 2, 3)).clamp_min(1e-6)
        return {"kl": float(kl(mean, log_variance)), "noise": float(noise.median())}


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over all numbers of KL(N(mean, variance) || N(0, 1)), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class Discriminator(nn.Sequential):
    """Patches of about 23 pixels, each called real or not: (b, 3, H, W) -> (b, 1, H/8 - 1, W/8 - 1), logits."""

    def __init__(self, width: int = 24) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(4, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.GroupNorm(4, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 2),
        )


class Adversarial(Objective):
    """A hinge discriminator of patches with a step of its own; the autoencoder is drawn to what it calls real."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.discriminator = Discriminator().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=OPTIMIZER.lr, betas=(0.5, 0.9))
        self.start = int(ADVERSARIAL_START * steps)
        self.verdicts: list[float] = []

    def extra(self, model: Autoencoder, x: Tensor, y: Tensor, z: Tensor, loss: Tensor, step: int) -> Tensor:
        """From `start` on, what the discriminator holds against the copies, as strong as a share of the rest."""
        if step < self.start:
            return loss.new_zeros(())
        self.discriminator.requires_grad_(False)
        against = -self.discriminator(y[:, :3]).mean()
        self.discriminator.requires_grad_(True)
        return ADVERSARIAL_WEIGHT * gradient_ratio(loss, against, model.decoder.conv_out.weight) * against

    def turn(self, x: Tensor, y: Tensor, step: int) -> None:
        """One step of the discriminator, from a little before it counts."""
        if step < self.start // 2:
            return
        real, copied = self.discriminator(x[:, :3]), self.discriminator(y[:, :3])
        self.optimizer.zero_grad(set_to_none=True)
        (F.relu(1 - real).mean() + F.relu(1 + copied).mean()).backward()
        self.optimizer.step()
        right = ((real > 0).float().mean() + (copied < 0).float().mean()) / 2
        self.verdicts = [*self.verdicts[-49:], float(right)]

    @torch.no_grad()
    def measure(self, model: Autoencoder, x: Tensor) -> dict[str, float]:
        """The share of patches of training pictures and copies that it called right at the end."""
        return {"discriminator_right": sum(self.verdicts) / max(1, len(self.verdicts))}


ARMS = (
    BASE,
    Arm(name="kl", label="+ KL", build=Variational, objective=lambda steps: KL(), note=f"kl {KL_WEIGHT}"),
    Arm(
        name="adversarial",
        label="+ discriminator",
        objective=Adversarial,
        note=f"adversarial {ADVERSARIAL_WEIGHT} from {ADVERSARIAL_START}",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and write."""
    arguments = study_arguments(__doc__.split("\n")[0], "penalties").parse_args(argv)
    results = run_arms(ARMS, arguments.steps, arguments.seeds, arguments.runs)
    summary = summarise(results)
    print(summary)
    write(arguments.out, results, page(results, summary, arguments.steps, arguments.seeds))
    figure, (curves, points) = axes_of(2)
    draw_curves(curves, results, {arm.name: arm.label for arm in ARMS}, "psnr", "held-out scenes")
    groups = {arm.label: [r["pages"]["psnr"] for r in results[arm.name]] for arm in ARMS}
    draw_points(points, groups, "PSNR in dB", "held-out pages of small text, at the end")
    save(figure, arguments.out)


def summarise(results: Results) -> str:
    """The table."""
    rows = []
    for arm in ARMS:
        found = results[arm.name]
        rows.append(
            [
                arm.label,
                spread([r["scenes"]["psnr"] for r in found]),
                spread([r["scenes"]["ssim"] for r in found], 4),
                spread([r["pages"]["psnr"] for r in found]),
                "–" if arm is BASE else difference(results, arm.name, BASE.name, lambda r: r["scenes"]["psnr"]),
                "–" if arm is BASE else difference(results, arm.name, BASE.name, lambda r: r["pages"]["psnr"]),
                spread([1000 * r["cpu_seconds"] / r["setting"]["steps"] for r in found], 0),
            ]
        )
    heads = ["", "scenes, PSNR in dB", "SSIM", "pages, PSNR in dB", "scenes, dB", "pages, dB", "CPU ms a step"]
    return table(heads, rows)


def page(results: Results, summary: str, steps: int, seeds: int) -> str:
    """The page of docs."""
    own = {name: [r["own"] for r in results[name]] for name in ("kl", "adversarial")}
    text = paragraphs(
        f"""Printed by `python studies/penalties.py`; the numbers are in [penalties.json](penalties.json).
        {conditions(steps, seeds)} Columns 5 and 6: against the first row.""",
        f"""KL: latents are drawn from the posterior, and {KL_WEIGHT:g} times its mean divergence from a standard normal
        is added. At the end it is {spread([r["kl"] for r in own["kl"]])} nats a number, and the noise of the median
        channel {spread([r["noise"] for r in own["kl"]], 3)} of its deviation. Discriminator: {parameters() / 1e6:.3f} M
        parameters on patches, hinge loss, {ADVERSARIAL_WEIGHT:g} times the ratio of gradients at the decoder's last
        layer, after the first {ADVERSARIAL_START:.0%} of the steps. At the end it calls
        {spread([r["discriminator_right"] for r in own["adversarial"]])} of the patches right (a coin: 0.5).""",
    )
    return f"""# With KL, with a discriminator, with neither

{text}

{summary}

![PSNR](penalties.png)
{findings(FINDINGS, steps, seeds)}"""


def parameters() -> int:
    """Of the discriminator."""
    return sum(p.numel() for p in Discriminator().parameters())


if __name__ == "__main__":
    main()
