"""What a distillation trains: the student and the fake score, copies of the teacher or adapters in it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import Tensor, nn

from fourstroke.distill.batch import Batch
from fourstroke.dit import Transformer, condition
from fourstroke.flow.sampler import Velocity
from fourstroke.lora import LoraConfig, active_lora, add_lora, lora_module
from fourstroke.parallel.sharding import Sharded
from fourstroke.pipeline import Pipeline

METHODS = ("prefill", "denoise")
"""Those of a transformer that are called from outside, beside `forward`."""


class DistillModels:
    """Student and, where the objective needs one, fake score of one teacher; `models` holds what is trained of them.

    With a rank they are adapters of the teacher's frozen transformer, which is in memory once; else they are float32
    copies of it, whatever its own type: small updates would be lost in bfloat16. On several ranks all are sharded.

    `start` is what the student begins as, None for the teacher; the fake score begins as the teacher always.
    """

    def __init__(
        self,
        teacher: Pipeline,
        lora_rank: int,
        seed: int,
        gradient_checkpointing: bool,
        fake_score: bool = True,
        start: Transformer | None = None,
    ) -> None:
        self.teacher, self.lora_rank = teacher, lora_rank
        base = teacher.transformer
        self.student: Transformer
        self.fake: Transformer | None = None
        names = ("student", "fake") if fake_score else ("student",)
        self.models: dict[str, nn.Module]
        self._student: Sharded[Transformer] | None = None
        if lora_rank:
            for name in names:
                add_lora(base, LoraConfig(rank=lora_rank), name, seed)
            self._base = Sharded(base, METHODS)
            self.student, self.fake = base, base if fake_score else None
            self.models = {name: lora_module(base, name) for name in names}
        else:  # each is sharded before the next is made: a GPU need never hold three whole ones
            self._student = Sharded(_master(base if start is None else start), METHODS)
            fake = Sharded(_master(base), METHODS) if fake_score else None
            self._base = Sharded(base, METHODS)
            self.student = self._student.model
            self.models = {"student": self.student}
            if fake is not None:
                self.fake = self.models["fake"] = fake.model
        for model in (self.student, self.fake):
            if model is not None:
                model.gradient_checkpointing = gradient_checkpointing
        self._drawn = False

    def active(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Within the block the transformer with adapters is this one."""
        return active_lora(self.teacher.transformer, name) if self.lora_rank else contextlib.nullcontext()

    def velocity(self, name: str, batch: Batch, repeats: int) -> Velocity:
        """The velocity of `student` or `fake` under a batch, `repeats` rows for each of its prompts."""
        model = self.student if name == "student" else self.fake
        assert model is not None, "this objective trains no fake score"
        with self.active(name):
            velocity = condition(model, batch.text, batch.grid, batch.inputs, repeats)

        def adapted(x: Tensor, t: Tensor) -> Tensor:
            with self.active(name):
                return velocity(x, t)

        return adapted if self.lora_rank else velocity

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block the first rank's student is plain and complete, and the teacher too the first time, when
        its readings are taken.
        """
        pipe, parts = self.teacher, (self.teacher.transformer, self.student, self.fake)
        with contextlib.ExitStack() as stack:
            if self._student is None:
                pipe.transformer = self.student = stack.enter_context(self._base.gathered())
                self.fake = None if self.fake is None else self.student
            else:
                self.student = stack.enter_context(self._student.gathered())
                if not self._drawn:
                    pipe.transformer = stack.enter_context(self._base.gathered())
            self._drawn = True
            try:
                yield
            finally:
                pipe.transformer, self.student, self.fake = parts


def _master(model: Transformer) -> Transformer:
    """A float32 copy that is trained."""
    return copy.deepcopy(model).float().requires_grad_(True)
