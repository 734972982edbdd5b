"""The WSGI application that granian serves."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()

from apps.workspaces.checks import refuse_to_start_on_errors  # noqa: E402 - needs the apps

refuse_to_start_on_errors()
