"""Every address of the product; each app brings its own."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("apps.workspaces.urls")),
    path("", include("apps.connections.urls")),
    path("v1/<str:app_id>/", include("apps.workspaces.api.urls")),
    path("v1/<str:app_id>/", include("apps.connections.api.urls")),
    path("v1/<str:app_id>/", include("apps.runs.api.urls")),
    path("accounts/", include("allauth.urls")),
    path("", include("allauth.idp.urls")),
    path("admin/", admin.site.urls),
]
