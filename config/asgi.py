"""The ASGI application. Jackfield is served over WSGI, which is several times faster here; this is for hosts without it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_asgi_application()
