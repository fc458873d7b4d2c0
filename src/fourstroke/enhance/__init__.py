"""The prompt enhancer: captions taken apart, the protocol, the enhancer itself, and its rewards."""

from fourstroke.registry import offer

offer("caption_rules", chat="fourstroke.enhance.chat:ChatRules")
