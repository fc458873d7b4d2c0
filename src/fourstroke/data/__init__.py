"""Datasets of every kind, and what makes batches of them: filters, buckets, caches, the loader."""

from fourstroke.registry import offer

_DATASETS = "fourstroke.data.datasets"
offer(
    "datasets",
    folder=f"{_DATASETS}.folder:FolderData",
    webdataset=f"{_DATASETS}.webdataset:WebDatasetData",
    parquet=f"{_DATASETS}.parquet:ParquetData",
    edits=f"{_DATASETS}.edits:EditsData",
    mixture=f"{_DATASETS}.mixture:MixtureData",
    leaves=f"{_DATASETS}.leaves:LeavesData",
    prompts="fourstroke.data.prompts:PromptsData",
)
offer(
    "filters",
    size="fourstroke.data.filters:SizeFilter",
    caption="fourstroke.data.filters:CaptionFilter",
    duplicate="fourstroke.data.filters:DuplicateFilter",
    entropy="fourstroke.data.filters:EntropyFilter",
    scorer="fourstroke.data.filters:ScorerFilter",
)
