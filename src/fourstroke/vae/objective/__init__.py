"""The autoencoder's objective: a list of terms that a recipe names. A new one is a file here (or anywhere) and a line.

VAE-2.0 report, section Objective: L = L1 + w LPIPS + w L_align, with margins from strict to loose. The functions behind
the terms are in `vae.losses`.
"""

from fourstroke.registry import offer
from fourstroke.vae.objective.objective import DEFAULT_LOSSES, Losses, Objective, check_losses
from fourstroke.vae.objective.term import LossConfig, PictureLoss, Reconstruction, Term

__all__ = [
    "DEFAULT_LOSSES",
    "LossConfig",
    "Losses",
    "Objective",
    "PictureLoss",
    "Reconstruction",
    "Term",
    "check_losses",
]

offer(
    "losses",
    l1="fourstroke.vae.objective.pictures:L1",
    edge="fourstroke.vae.objective.pictures:Edge",
    squared="fourstroke.vae.objective.pictures:Squared",
    outline="fourstroke.vae.objective.pictures:Outline",
    lpips="fourstroke.vae.objective.perceptual:LpipsConfig",
    alignment="fourstroke.vae.objective.alignment:AlignmentConfig",
    anchor="fourstroke.vae.objective.anchor:AnchorConfig",
)
