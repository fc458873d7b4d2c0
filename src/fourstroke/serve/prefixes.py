"""Prefixes that may be needed again, kept by the weights that computed them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from fourstroke.dit import PrefixCache
from fourstroke.pipeline import Pipeline

Key = tuple[str, str, tuple[bytes, ...], tuple[int, int]]


class PrefixStore:
    """Prefixes by (model version, prompt, input images, grid); the least recently used go first when it is full."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = self.hits = self.misses = 0
        self._entries: OrderedDict[Key, PrefixCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> PrefixCache | None:
        """The prefix, which then counts as just used; None if it is not here."""
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Key, prefix: PrefixCache) -> None:
        """Keep a prefix, unless it alone is over the capacity."""
        if prefix.nbytes > self.capacity:
            return
        self._entries[key] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self.capacity:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes


def fingerprint(pipe: Pipeline) -> str:
    """Twelve hex digits that change with the weights: a hash of up to 4,096 numbers of every parameter."""
    digest = hashlib.sha256()
    for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
        for name, parameter in part.named_parameters():
            values = parameter.detach().flatten()
            sample = values[:: max(1, len(values) // 4096)].float().cpu().contiguous()
            digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:12]
