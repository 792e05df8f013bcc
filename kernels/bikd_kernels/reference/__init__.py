"""The operators in plain PyTorch: naive.py is the frozen specification, the others are the CPU path."""
