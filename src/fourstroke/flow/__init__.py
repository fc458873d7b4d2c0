"""The flow: path, schedule, sampler, guidance."""
