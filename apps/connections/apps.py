import logging

from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    name = "apps.connections"
    label = "connections"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from apps.workspaces import project_settings

        from . import auth_setting, receivers  # noqa: F401 - connects them

        project_settings.register(auth_setting.PART)

        logging.getLogger("django.security.csrf").addFilter(hide_connect_links)


def hide_connect_links(record: logging.LogRecord) -> bool:
    """Django names the path of a request that its CSRF check refused; on the connect page that is the link itself."""
    if isinstance(record.args, tuple):
        record.args = tuple("/connect/…" if str(part).startswith("/connect/") else part for part in record.args)
    return True
