"""Several processes that train one model: mesh, sharding, collectives, checkpoints."""
