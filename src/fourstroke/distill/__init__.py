"""Distribution-matching distillation: its gradient, the student's rollout, teachers by step, and monitors."""
