"""Configs for solo-learn, found by Hydra."""
