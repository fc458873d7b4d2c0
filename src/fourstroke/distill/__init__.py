"""Distillation to few steps: objectives, the student's rollout, teachers by step, and monitors."""

from fourstroke.registry import offer

offer(
    "objectives",
    matching="fourstroke.distill.objective:Matching",
    segments="fourstroke.distill.segments:Segments",
)
