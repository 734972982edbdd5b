"""The Celery application. Tasks carry ids only."""

import os
from typing import Any

from celery import Celery
from celery.signals import beat_init, celeryd_init

from config import broker

broker.register()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("jackfield")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@celeryd_init.connect  # type: ignore[untyped-decorator] # celery has no types
@beat_init.connect  # type: ignore[untyped-decorator]
def refuse_bad_settings(**kwargs: Any) -> None:
    """Worker and scheduler start on the same settings as the web process, or not at all."""
    from apps.workspaces.checks import refuse_to_start_on_errors  # needs the apps

    refuse_to_start_on_errors()
