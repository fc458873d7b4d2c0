"""The prompt enhancer: captions taken apart, the protocol, the enhancer itself, and its rewards."""
