"""What the models can do, measured."""

from fourstroke.registry import offer

offer(
    "judges",
    artefacts="fourstroke.evaluate.artefacts:Artefacts",
    clip="fourstroke.evaluate.embeddings:ClipJudge",
    cmmd="fourstroke.evaluate.frechet:Cmmd",
    dino="fourstroke.evaluate.embeddings:DinoJudge",
    diversity="fourstroke.evaluate.diversity:Diversity",
    fid="fourstroke.evaluate.frechet:Fid",
    http="fourstroke.evaluate.score_service:HttpJudge",
    ocr="fourstroke.evaluate.ocr:OcrJudge",
    viescore="fourstroke.evaluate.viescore:VieScore",
    vision="fourstroke.evaluate.vision:VisionJudge",
    vqa="fourstroke.evaluate.vqa:VqaJudge",
)
offer(
    "chapters",
    reconstruction="fourstroke.evaluate.report.reconstruction:ReconstructionChapter",
    variety="fourstroke.evaluate.report.variety:VarietyChapter",
)
offer("validators", prompts="fourstroke.evaluate.prompts:PromptsConfig")
