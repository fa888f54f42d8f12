"""One function for each way to compute the same loss: by autograd, block by block, or in two passes over tiles.

`weights` asks a strategy for α; `autograd` is the reference; `blocks` forms the gradient beside the loss; `two_pass`
does so tile by tile, for a ring of ranks or by Triton kernels; `attach` gives the gradient to autograd.
"""
