"""Print the direct dependencies, core and hosts, at the versions installed here: ``name==version``, one a line."""

from importlib import metadata

from packaging.requirements import Requirement

EXTRAS = ("", "lightly", "sklearn", "timm", "examples")


def direct_dependencies(package: str) -> list[str]:
    """Pin what ``package`` and its extras declare, without local versions such as ``+cpu``."""
    declared = [Requirement(line) for line in metadata.requires(package) or []]
    wanted = {
        requirement.name
        for requirement in declared
        if requirement.name != package
        and (requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS))
    }
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in sorted(wanted)]


if __name__ == "__main__":
    print("\n".join(direct_dependencies("alphacl-plugins")))
