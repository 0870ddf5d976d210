"""How fast the CPU backend is: its kernels beside other libraries, a training step, an epoch, certificates."""
