"""Public suites of prompts: each reads the user's download and lays pictures out as its official scorer reads them.

A suite is one file and one line here. Prompts are never shipped.
"""

from fourstroke.registry import offer

PLACE = "fourstroke.evaluate.suites"
offer(
    "suites",
    geneval=f"{PLACE}.geneval:GenEval",
    dpg=f"{PLACE}.dpg:DpgBench",
    oneig=f"{PLACE}.oneig:OneIG",
    compbench=f"{PLACE}.compbench:CompBench",
    longtext=f"{PLACE}.longtext:LongText",
    cvtg=f"{PLACE}.cvtg:Cvtg",
    qwen_image_bench=f"{PLACE}.qwen_image_bench:QwenImageBench",
    gedit=f"{PLACE}.gedit:GEdit",
    imgedit=f"{PLACE}.imgedit:ImgEdit",
    lines=f"{PLACE}.lines:Lines",
)
