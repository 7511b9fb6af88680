"""The wheel carries configs/ as robust_jax/configs; an editable install finds it where it lies."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigsInThePackage(BuildHookInterface):
    """A build hook, see pyproject.toml."""

    def initialize(self, version, build_data):
        """Adds the folder to a wheel that is no editable one."""
        if version != "editable":
            build_data["force_include"]["configs"] = "robust_jax/configs"
