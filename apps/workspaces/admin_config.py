"""Puts our admin site in the place of Django's; kept apart from `admin_base`, since no model may be imported this early."""

from django.contrib.admin.apps import AdminConfig


class JackfieldAdminConfig(AdminConfig):
    default_site = "apps.workspaces.admin_base.Site"
