from django.apps import AppConfig


class ToolkitsConfig(AppConfig):
    name = "apps.toolkits"
    label = "toolkits"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers the system check
