"""The parts of inspect_pairs.py: the pairs with the largest α, and the pages that show them."""
