"""Every address of the product; each app brings its own."""

from allauth.account.decorators import secure_admin_login
from allauth.socialaccount.providers.openid_connect import views as openid_connect
from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from apps.lib import openapi, paths  # noqa: F401 - paths registers what routes name
from apps.lib.pages import error_page
from apps.modules.api.views import definition_schema
from apps.workspaces import accounts, health

# The admin's own form asks for no second factor and knows no single sign-on.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("v1/<project:app_id>/", include("apps.runs.api.urls")),  # first, for execute is called most
    path("v1/<project:app_id>/", include("apps.connections.api.urls")),
    path("v1/<project:app_id>/", include("apps.toolkits.api.urls")),
    path("v1/<project:app_id>/", include("apps.workspaces.api.urls")),
    path("v1/<project:app_id>/", include("apps.modules.api.urls")),
    path("v1/<project:app_id>/", include("apps.runs.api.manage_urls")),
    path("", include("apps.runs.api.runs_urls")),
    path("api/execution/", include("apps.runs.api.sessions_urls")),
    path("", include("apps.runs.api.hooks_urls")),
    path("", include("apps.runs.api.job_results_urls")),
    path("api/integrations/", include("apps.runs.api.raw_urls")),
    path("", RedirectView.as_view(url="/admin/")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("docs", openapi.try_it, name="docs"),
    path("docs/errors", error_page, name="docs_errors"),
    path("openapi.json", openapi.description, name="openapi"),
    path("modules.schema.json", definition_schema),
    path("", include("apps.workspaces.urls")),
    path("", include("apps.connections.urls")),
    path("", include("apps.connections.people_urls")),
    path("", include("apps.runs.page_urls")),
    path("v1/", include("apps.runs.api.shortcut_urls")),  # late, for its paths begin with any toolkit's slug
    # An account has one e-mail address, and only an admin changes it (see apps.workspaces.accounts).
    path("accounts/email/", RedirectView.as_view(pattern_name="mfa_index")),
    path("accounts/oidc/<str:provider_id>/login/", accounts.unless_broken(openid_connect.login)),
    path("accounts/oidc/<str:provider_id>/login/callback/", accounts.unless_broken(openid_connect.callback)),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
]
if settings.JACKFIELD_SANDBOX:
    urlpatterns += [path("", include("allauth.idp.urls")), path("", include("apps.connections.sandbox_api"))]
