"""Downloads of every suite in its true format, with prompts of ours, and walks through folders as scorers make them.

A walk returns what a scorer would judge: by the name that it knows a prompt by, the sizes of its pictures.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from pathlib import Path

from PIL import Image

Walk = dict[str, list[tuple[int, int]]]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _table(file: Path, rows: list[dict[str, object]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    _write(file, stream.getvalue())


def _size(file: str | Path) -> tuple[int, int]:
    with Image.open(file) as image:
        image.load()
        return image.size


def _png(file: Path, colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(stream, file.suffix[1:].replace("jpg", "jpeg"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(stream.getvalue())
    return stream.getvalue()


def geneval(root: Path) -> None:
    rows = [
        {"tag": "two_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat beside a tree"},
        {"tag": "counting", "include": [{"class": "fish", "count": 2}], "exclude": [{"class": "fish", "count": 3}],
         "prompt": "two fish"},
    ]  # fmt: skip
    _write(root / "prompts/evaluation_metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def geneval_walk(out: Path) -> Walk:
    found: Walk = {}
    for name in os.listdir(out):
        if name.isdigit() and (out / name).is_dir():
            metadata = json.loads((out / name / "metadata.jsonl").read_text())
            pictures = [one for one in os.listdir(out / name / "samples") if re.match(r"\d+\.png", one)]
            found[metadata["prompt"]] = [_size(out / name / "samples" / one) for one in pictures]
    return found


def dpg(root: Path) -> None:
    texts = {"7": "A tall cat, on a mint ground.", "COCOval2014_0012": "A rocket above a red circle."}
    rows = []
    for name, text in texts.items():
        _write(root / "dpg_bench/prompts" / f"{name}.txt", text + "\n")
        for number in (1, 2):
            rows.append({"item_id": name, "text": text, "keywords": "", "proposition_id": number,
                         "dependency": "0" if number == 1 else "1", "category_broad": "entity",
                         "category_detailed": "whole", "tuple": "entity - whole (cat)",
                         "question_natural_language": f"Is it so, {number}?"})  # fmt: skip
    _table(root / "dpg_bench/dpg_bench.csv", rows)


def dpg_walk(out: Path) -> Walk:
    found: Walk = {}
    for name in os.listdir(out / "grids"):
        with Image.open(out / "grids" / name) as grid:
            side = grid.width // 2
            places, key = [(0, 0), (side, 0), (0, side), (side, side)], name.split(".")[0]
            crops = [grid.crop((x, y, x + side, y + side)) for x, y in places]
            found[key] = [crop.size for crop in crops]
            assert grid.size == (2 * side, 2 * side)
            for number, crop in enumerate(crops):
                with Image.open(out / "pictures" / f"{key}_{number}.png") as own:
                    assert crop.tobytes() == own.tobytes(), (crop.mode, own.mode, crop.size, own.size)
    return found


def oneig(root: Path) -> None:
    _table(root / "OneIG-Bench.csv", [
        {"category": "General_Object", "id": "003", "prompt_en": "a blue kettle", "type": "P", "prompt_length": "short",
         "class": "object"},
        {"category": "Text_Rendering", "id": "003", "prompt_en": 'a sign "tea"', "type": "P", "prompt_length": "short",
         "class": "text"},
    ])  # fmt: skip
    _table(root / "OneIG-Bench-ZH.csv", [{"category": "Multilingualism", "id": "000", "prompt_cn": "一只猫"}])
    questions = {"question": json.dumps({"1": "A kettle?", "2": "Blue?"}), "dependency": {"1": [0], "2": [1]}}
    _write(root / "scripts/alignment/Q_D/object.json", json.dumps({"003": questions}))
    _table(root / "scripts/text/text_content.csv", [{"id": "003", "text_content": "tea"}])


def oneig_walk(out: Path) -> Walk:
    found: Walk = {}
    for kind in ("object", "text"):
        (grid,) = glob.glob(f"{out}/grids/{kind}/micro/003*")
        width, height = _size(grid)
        found[f"{kind}/003"] = [(width // 2, height // 2)] * 4
    return found


def compbench(root: Path) -> None:
    _write(root / "examples/dataset/color_val.txt", "a red cup and a blue plate\t2\na green and/or yellow leaf\n")
    _write(root / "examples/dataset/spatial_val.txt", "a fish under a boat\n")
    _write(root / "examples/dataset/color_train.txt", "not drawn\n")


def compbench_walk(out: Path) -> Walk:
    found: Walk = {}
    for category in ("color", "spatial"):
        names = os.listdir(out / category / "samples")
        names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
        assert [int(name[-10:-4]) for name in names] == list(range(len(names)))
        for name in names:
            found.setdefault(name.split("_")[0], []).append(_size(out / category / "samples" / name))
    return found


def longtext(root: Path) -> None:
    rows = [{"prompt_id": number, "category": "sign", "length": "short", "prompt": f'a sign "{word}"', "text": [word]}
            for number, word in ((0, "tea"), (17, "two cups"))]  # fmt: skip
    _write(root / "textbench/text_prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def longtext_walk(out: Path) -> Walk:
    found: Walk = {}
    for file in sorted(glob.glob(f"{out}/*.png")):
        found.setdefault(str(int(Path(file).name.split("_")[0])), []).append(_size(file))
    return found


def cvtg(root: Path) -> None:
    for folder, count in (("CVTG", 2), ("CVTG-style", 5)):
        row = {"index": 4, "prompt": 'a sign "tea" and a cup "hot"', "carrier_list": ["sign", "cup"],
               "sentence_list": ["tea", "hot"]}  # fmt: skip
        _write(root / folder / f"{count}.json", json.dumps({"data_list": [row]}))
        _write(root / folder / f"{count}_combined.json", json.dumps({"data_list": [{"index": 4, "prompt": "x"}]}))


def cvtg_walk(out: Path) -> Walk:
    found: Walk = {}
    for kind in ("CVTG", "CVTG-Style"):
        for area in (2, 3, 4, 5):
            for file in (out / kind / str(area)).glob("*.png"):
                found[f"{kind}/{area}/{file.stem}"] = [_size(file)]
    return found


def qwen_image_bench(root: Path) -> None:
    rows = [
        {"ID": number, "prompt_en": text, "prompt_cn": "一只猫", "dims_en": "Quality / Detail / Noise", "dims_cn": "x"}
        for number, text in ((1, "a cat"), (12, "a boat"))
    ]
    _write(root / "qwen_image_bench_hf_v0518.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, *rows]))


def qwen_image_bench_walk(out: Path) -> Walk:
    rows = [json.loads(line) for line in (out / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [sorted(row) for row in rows] == [["ID", "image_path", "prompt"]] * 2
    return {row["prompt"]: [_size(row["image_path"])] for row in rows}


def gedit(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = []
    for number, (task, language) in enumerate((("color_alter", "en"), ("subject-add", "en"), ("color_alter", "cn"))):
        data = _png(root / "x.jpg", "blue")
        rows.append({"task_type": task, "key": f"k{number}", "instruction": "make it red",
                     "instruction_language": language, "input_image": {"bytes": data, "path": None},
                     "input_image_raw": {"bytes": data, "path": None}, "Intersection_exist": True})  # fmt: skip
    (root / "data").mkdir()
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, root / "data/train-00000-of-00001.parquet", row_group_size=2)


def gedit_walk(out: Path) -> Walk:
    found: Walk = {}
    for task in ("color_alter", "subject-add"):
        for file in (out / "fullset" / task / "en").glob("*_SRCIMG.png"):
            assert _size(file) == (64, 48)
            edited = file.with_name(file.name.replace("_SRCIMG", ""))
            found[f"{task}/en/{edited.stem}"] = [_size(edited)]
    return found


def imgedit(root: Path) -> None:
    rows = {"1082": {"id": "animal/1.jpg", "prompt": "make it green", "edit_type": "adjust"},
            "673": {"id": "style/2.jpg", "prompt": "paint it", "edit_type": "style"}}  # fmt: skip
    _write(root / "Benchmark/Basic/basic_edit.json", json.dumps(rows))
    for row in rows.values():
        _png(root / "Benchmark/singleturn" / row["id"])


def imgedit_walk(out: Path) -> Walk:
    return {key: [_size(out / f"{key}.png")] for key in ("1082", "673")}


def lines(root: Path) -> None:
    _write(root / "prompts.jsonl", '{"prompt": "a cat", "id": "A/1"}\n{"prompt": "a dog"}\n{"prompt": "a dog"}\n')


def lines_walk(out: Path) -> Walk:
    found = [json.loads(line) for line in (out / "pictures.jsonl").read_text().splitlines()]
    return {row["id"]: [_size(out / row["file"])] for row in found}


SUITES = {
    "geneval": (geneval, geneval_walk, {"a cat beside a tree": 4, "two fish": 4}),
    "dpg": (dpg, dpg_walk, {"7": 4, "COCOval2014_0012": 4}),
    "oneig": (oneig, oneig_walk, {"object/003": 4, "text/003": 4}),
    "compbench": (
        compbench,
        compbench_walk,
        {"a red cup and a blue plate": 3, "a green and or yellow leaf": 3, "a fish under a boat": 3},
    ),
    "longtext": (longtext, longtext_walk, {"0": 4, "17": 4}),
    "cvtg": (cvtg, cvtg_walk, {"CVTG/2/4": 1, "CVTG-Style/5/4": 1}),
    "qwen_image_bench": (qwen_image_bench, qwen_image_bench_walk, {"a cat": 1, "a boat": 1}),
    "gedit": (gedit, gedit_walk, {"color_alter/en/k0": 1, "subject-add/en/k1": 1}),
    "imgedit": (imgedit, imgedit_walk, {"1082": 1, "673": 1}),
    "lines": (lines, lines_walk, {"A/1": 1, "00001": 1}),
}
"""By suite: its download, the scorer's walk, and what that finds: pictures by prompt."""
