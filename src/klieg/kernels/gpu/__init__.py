"""The kernel on the GPU, in Triton: output, log-sum-exp and row statistics of exact attention in one pass."""
