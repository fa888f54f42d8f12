"""Ways to compute the loss: `autograd` is the reference, `blocks` the engine of most calls, `two_pass` that of a ring
and of Triton kernels. `weights` asks a strategy for α, `attach` gives the gradient to autograd."""
