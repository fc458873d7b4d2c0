"""Cell facts are what the picture shows: styles where things are, letters where their ink is."""

import numpy as np
import torch

from fourstroke.world import STYLES, World, WorldConfig
from fourstroke.world.cells import SQUARE, UNKNOWN, cell_labels, cell_names, letter_labels
from fourstroke.world.lettering import letter_boxes
from fourstroke.world.palette import BOARD_COLOURS, INKS
from fourstroke.world.words import WORDS
from tests.world.test_second_edition import SCENES, WORLD

NAMES = cell_names(WORLD)
THINGS, COLOURS = NAMES.things, NAMES.colours
SIGNS = World(WorldConfig(width=128, height=128, words=1.0, things=20, scripts=tuple(WORDS), max_word_length=8))


def test_each_thing_is_named_with_its_style_where_it_stands() -> None:
    for scene in SCENES[:200]:
        things, colours, styles = (part[0] for part in cell_labels([scene], NAMES))
        assert things.shape == colours.shape == styles.shape == (8, 8)
        for entry in scene.objects if scene.layout != "front" else scene.objects[1:]:
            row, column = int(entry.y * 8), int(entry.x * 8)
            if THINGS[things[row, column]] != entry.name:
                continue  # a small thing between cells' centres
            assert styles[row, column] == (UNKNOWN if entry.kind == "shape" else STYLES.index(entry.style))
        assert ((styles == UNKNOWN) | (things > 1)).all()
        assert {THINGS[index] for index in things.flatten()} <= {
            "background",
            "sign",
            *(entry.name for entry in scene.objects),
        }


def test_a_sign_has_the_colour_of_its_board() -> None:
    for scene in map(SIGNS.scene, range(20)):
        assert scene.sign is not None
        things, colours, styles = (part[0] for part in cell_labels([scene], NAMES))
        board = things == THINGS.index("sign")
        assert board.any()
        assert {COLOURS[index] for index in colours[board].tolist()} == {scene.sign.board}
        assert (styles[board] == UNKNOWN).all()


def test_letters_have_ink_in_their_boxes_and_none_elsewhere() -> None:
    """On the board, without its border, pixels nearer to the ink than to the board lie in some letter's box."""
    scripts = set()
    for seed in range(150):
        scene = SIGNS.scene(seed)
        assert scene.sign is not None
        if scene.background.light != "even" or scene.background.kind == "transparent":
            continue
        sign, picture = scene.sign, SIGNS.render(scene)[..., :3].astype(float)
        scripts.add(sign.script)
        to_ink, to_board = (np.abs(picture - np.array(c)).sum(2) for c in (INKS[sign.ink], BOARD_COLOURS[sign.board]))
        ink = to_ink < to_board
        boxes = letter_boxes(sign, 128, 128)
        assert "".join(letter for letter, _ in boxes) == sign.word
        covered = np.zeros((128, 128), bool)
        for letter, (left, top, right, bottom) in boxes:
            box = slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))
            assert ink[box].mean() > 0.1, (sign, letter)
            covered[max(0, int(top) - 1) : int(bottom) + 2, max(0, int(left) - 1) : int(right) + 2] = True
        line = max(1.0, 0.035 * sign.height * 128) * 3.5
        inside = np.zeros((128, 128), bool)
        rows, columns = (
            slice(round(128 * (middle - length / 2) + line), round(128 * (middle + length / 2) - line))
            for middle, length in ((sign.y, sign.height), (sign.x, sign.width))
        )
        inside[rows, columns] = True
        assert not (ink & inside & ~covered).any(), sign
    assert scripts == set(WORDS)


def test_squares_say_which_letter_they_show() -> None:
    for script in WORDS:
        alphabet = "".join(sorted(set("".join(WORDS[script]))))
        scenes = [scene for scene in map(SIGNS.scene, range(120)) if scene.sign and scene.sign.script == script]
        for scene in scenes:
            assert scene.sign is not None
            labels = letter_labels(scene, alphabet)
            assert labels.shape == (16, 16)
            found = {alphabet[index - 1] for index in labels[labels > 0].tolist()}
            assert found <= set(scene.sign.word)
            assert len(found) >= 0.6 * len(set(scene.sign.word)), (scene.sign, found)
            for letter, (left, top, right, bottom) in letter_boxes(scene.sign, 128, 128):
                if right - left >= SQUARE and bottom - top >= SQUARE:
                    row, column = int((top + bottom) / 2 / SQUARE), int((left + right) / 2 / SQUARE)
                    assert labels[row, column] in (alphabet.index(letter) + 1, *labels[row].tolist())
            unknown = letter_labels(scene, "")
            assert torch.equal(unknown == UNKNOWN, labels > 0)


def test_scenes_without_a_sign_have_no_letters() -> None:
    scene = next(scene for scene in SCENES if scene.sign is None)
    assert not letter_labels(scene, "abc").any()
