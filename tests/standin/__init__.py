"""Stand-ins for what cannot be installed without a board: TensorRT, its command, and CUDA's runtime."""
