"""What the models can do, measured."""

from fourstroke.registry import offer

offer("judges", vision="fourstroke.evaluate.vision:VisionJudge")
offer("validators", prompts="fourstroke.evaluate.prompts:PromptsConfig")
