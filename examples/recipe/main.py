"""A recipe's command line. Lightning and all the rest are imported once the options are read: --help is quick."""

from command_line import grouped, in_one_line

from recipe import protocol
from recipe.settings import Settings


def main(dataset: str, backbone: str, description: str) -> None:
    """Run a recipe with the options of the command line."""
    with in_one_line(goes_on="--resume goes on"):
        settings = grouped(Settings, description, Settings(backbone=backbone))
        from recipe.run import run

        run(protocol.DATASETS[dataset], settings)
