"""What the study of the enhancer counts as handed on."""

from __future__ import annotations

from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import EnhancerConfig, LocalModel
from fourstroke.enhance.protocol import write_answer


class Said(LocalModel):
    """A model that says what a table holds for the request and the seed; it keeps what it was asked."""

    def __init__(self, table):
        self.table, self.asked = table, []

    def complete_many(self, conversations, config, seed, stop=()):
        requests = [conversation[-1]["content"] for conversation in conversations]
        self.asked.append((seed, requests))
        return [self.table.get((request, seed), "no answer") for request in requests]


def test_what_is_handed_on_is_the_first_rewrite_that_passes():
    import enhance

    good, late, never = "a red circle", "a green square", "a red square"
    table = {(good, 0): write_answer("A red circle, lit.", "1:1", ""), (late, 0): write_answer("A circle.", "1:1", "")}
    table |= {(late, 1_000_003): write_answer("A green square, lit.", "1:1", "")}
    model = Said(table)
    config = EnhancerConfig(attempts=3, things=("circle", "square"), colours=("red", "green"))
    first, final = enhance.handed_on(PromptEnhancer(model, config), [good, never, late])
    assert first == ["A red circle, lit.", None, "A circle."]
    assert final == ["A red circle, lit.", never, "A green square, lit."]
    assert model.asked == [(0, [good, never, late]), (1_000_003, [never, late]), (2_000_006, [never])]
