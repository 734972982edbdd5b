from django.urls import path

from . import views

urlpatterns = [
    path("v1/integrations/callback", views.callback, name="callback"),
    path("v1/<str:app_id>/integrations/callback", views.callback, name="project_callback"),
    path("connect/result", views.result, name="connect_result"),
    path("connect/theme/<str:project_id>.css", views.theme, name="connect_theme"),
    path("connect/<str:token>", views.start, name="connect_start"),
]
