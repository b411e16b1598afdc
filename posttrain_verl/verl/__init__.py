"""What knows VeRL: its keys, its files, its trainers, and what is plugged into its processes."""

import sys


def assert_plugin_loaded() -> None:
    """Fail loudly unless VeRL loaded our plugin in the present process: it logs a failure at debug level only.

    Raises:
        RuntimeError: the install is unfinished, or `VERL_USE_EXTERNAL_PLUGINS` excludes the plugin.
    """
    import verl  # noqa: F401  (its import loads the entry points)

    if "posttrain_verl.verl.plugin" not in sys.modules:
        raise RuntimeError(
            "VeRL did not load the entry point 'posttrain': reinstall posttrain_verl (pip install -e .) "
            "and unset VERL_USE_EXTERNAL_PLUGINS"
        )
