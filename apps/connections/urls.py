from django.urls import path

from . import hosted_views, views

urlpatterns = [
    path("v1/integrations/callback", views.callback, name="callback"),
    path("v1/<str:app_id>/integrations/callback", views.callback, name="project_callback"),
    path("connect/result", views.result, name="connect_result"),
    path("connect/theme/<str:project_id>.css", views.theme, name="connect_theme"),
    path("connect/open/<str:secret>", hosted_views.open_link, name="connect_open"),
    path("connect/open/<str:secret>/outcome", hosted_views.outcome, name="connect_outcome"),
    path("connect/page/<str:page_id>", hosted_views.page, name="connect_page"),
    path("connect/page/<str:page_id>/connect/<str:slug>", hosted_views.connect, name="connect_page_connect"),
    path(
        "connect/page/<str:page_id>/reconnect/<str:connection_id>",
        hosted_views.reconnect,
        name="connect_page_reconnect",
    ),
    path(
        "connect/page/<str:page_id>/disconnect/<str:connection_id>",
        hosted_views.disconnect,
        name="connect_page_disconnect",
    ),
    path("connect/<str:token>", views.start, name="connect_start"),
]
