"""What a run needs before it is started: memory by part and rank, operations a step, hours at a given speed.

Nothing is allocated: models run on fake tensors, where PyTorch itself counts the operations and the activations that a
backward pass would keep. `benchmarks/training_memory.py` compares with what is really taken.
"""

from fourstroke.estimate.needs import GIB, Needs, Trained
from fourstroke.estimate.recipes import STAGES, estimate_recipe, needs, stage_of, warnings

__all__ = ["GIB", "STAGES", "Needs", "Trained", "estimate_recipe", "needs", "stage_of", "warnings"]
