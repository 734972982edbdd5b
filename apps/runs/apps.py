import logging

from django.apps import AppConfig

PERMISSIONS = ("/s/", "/hooks/", "/v1/job-results/")  # addresses that are permissions themselves


class RunsConfig(AppConfig):
    name = "apps.runs"
    label = "runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from apps.workspaces import project_settings

        from . import receivers  # noqa: F401 - registers them
        from .api.sinks import SETTING

        project_settings.register(SETTING)

        for name in ("django.request", "django.security.csrf"):
            logging.getLogger(name).addFilter(hide_links)


def hide_links(record: logging.LogRecord) -> bool:
    """Django names the path of a request that it refuses or that fails; where that is a permission it is left out."""
    if isinstance(record.args, tuple):
        record.args = tuple(_hidden(part) for part in record.args)
    return True


def _hidden(part: object) -> object:
    return next((f"{start}…" for start in PERMISSIONS if str(part).startswith(start)), part)
