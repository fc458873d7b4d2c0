"""Rewards of the enhancer's reinforcement learning, by name. A new one is a file here (or anywhere) and a line below.

Qwen-Image-2.0 report: MLLM visual consistency, MLLM aesthetics and rule-based text constraints. Each can be gamed
alone, which is why they are several, and why a judge that is none of them looks on.
"""

from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.registry import offer

__all__ = ["Reward", "RewardBatch"]

offer(
    "rewards",
    valid="fourstroke.enhance.rewards.text:Valid",
    words="fourstroke.enhance.rewards.text:Words",
    language="fourstroke.enhance.rewards.text:Language",
    length="fourstroke.enhance.rewards.text:Length",
    longer="fourstroke.enhance.rewards.text:Longer",
    richness="fourstroke.enhance.rewards.richness:Richness",
    ocr="fourstroke.enhance.rewards.ocr:Ocr",
    vision="fourstroke.enhance.rewards.vision:Vision",
    http="fourstroke.enhance.rewards.http:Http",
    judge="fourstroke.enhance.rewards.judged:Judged",
)
