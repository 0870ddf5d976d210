"""How fast the GPU backend is, and what NVIDIA's compiler makes of its kernels."""
