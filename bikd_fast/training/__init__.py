"""Training: the loop, its schedule, the DeepSpeed engine under it, checkpoints."""
